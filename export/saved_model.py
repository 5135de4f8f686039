"""The recipe `saved_model`: the deploy graph for TensorFlow itself and TensorFlow Serving, with every weight a constant."""

from swin_keras.export.tflite import disk_errors

from swin_keras.quiet import quiet_native


def write(deploy, output_names, folder):
    """Writes a deploy graph as a SavedModel with the signature `serving_default`, which takes `image`. It has no variables.

    Args:
        deploy: `keras.Model` from `to_deploy`.
        output_names: Name of each output.
        folder: Path. Made.
    """
    import keras
    import tensorflow as tf

    weights = [[variable.numpy() for variable in variables] for variables in (deploy.trainable_variables, deploy.non_trainable_variables)]

    @tf.function(input_signature=[tf.TensorSpec(deploy.inputs[0].shape, tf.float32, name="image")])
    def serve(image):
        constants = [[tf.constant(array) for array in arrays] for arrays in weights]
        outputs, _ = deploy.stateless_call(*constants, image, training=False)
        return dict(zip(output_names, keras.tree.flatten(outputs), strict=True))

    with quiet_native(), disk_errors():
        tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": serve.get_concrete_function()})


def load(folder, output_names):
    """Returns a function from a picture `(1, height, width, channels)` to a list of arrays, the outputs of a SavedModel."""
    import tensorflow as tf

    with quiet_native():
        module = tf.saved_model.load(str(folder))
    serve = module.signatures["serving_default"]

    def run(picture):
        outputs = serve(image=tf.constant(picture))
        return [outputs[name].numpy() for name in output_names]

    run.module = module  # The signature holds what it needs only as long as this lives.
    return run
