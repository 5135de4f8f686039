// Drives the real page in headless Chromium, for test_web.py: `node suite.mjs CONFIG.json` prints what was seen, a JSON object; what should have been
// seen is for Python to say. CONFIG: python, root, bundle, features, other, unfit, sizes (bundles), samples, classified (names of samples), screenshots (a folder or null).

import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { chromium } = createRequire(join(config.root, "edge_demo/web/package.json"))("playwright-core");
const FLAGS = [
  "--no-sandbox --no-first-run --disable-background-networking --disable-component-update --disable-sync",
  "--enable-unsafe-webgpu --use-webgpu-adapter=swiftshader --enable-features=Vulkan --ignore-gpu-blocklist",
  "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream",
].flatMap((line) => line.split(" "));
const READY = "#running:is([data-state=ready], [data-state=partly])";
const TIMEOUT = Number(process.env.SWIN_WEB_TIMEOUT ?? 60_000);

/** Starts `swin-keras serve`, in the form that needs no installation. */
async function serve(bundle, port = 0) {
  const command = ["-m", "edge_demo.serve", "--bundle", bundle, "--samples", config.samples, "--port", String(port)];
  const process = spawn(config.python, command, { cwd: config.root, stdio: ["ignore", "pipe", "inherit"] });
  const line = await new Promise((resolve, reject) => {
    process.stdout.once("data", (data) => resolve(String(data)));
    process.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  const ended = new Promise((resolve) => process.once("exit", resolve));
  return { url: line.split(" ")[0], stop: () => (process.kill("SIGINT"), ended) };
}

/** Opens the page in a context of its own; notes what goes wrong in it, and whom it talks to. */
async function open(url, options = {}, script = undefined, argument = undefined) {
  const context = await browser.newContext({ viewport: { width: 1180, height: 1000 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT);
  const seen = { errors: [], elsewhere: [] };
  page.on("pageerror", (error) => seen.errors.push(error.stack));
  page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
  context.on("request", (request) => /^(blob|data):/.test(request.url()) || request.url().startsWith(url) || seen.elsewhere.push(request.url()));
  if (script) await page.addInitScript(script, argument);
  await page.goto(url);
  return { context, page, seen };
}

const text = (page, selector) => page.textContent(selector);
const pressed = (page) => page.$$eval("#samples [aria-pressed=true]", (buttons) => buttons.map(({ dataset }) => dataset.name));
const shot = (page, name, options = {}) => config.screenshots && page.screenshot({ path: join(config.screenshots, `${name}.png`), ...options });

/** Chooses a recipe, an accelerator or a size, and waits until it runs. */
async function choose(page, control, value) {
  await page.selectOption(control, value);
  const mark = control === "#accelerator" ? "wanted" : control.slice(1);
  await page.waitForSelector(`${READY}[data-${mark}="${value}"]`);
}

/** What the page says of a picture, once it says it. */
async function classes(page, name) {
  const marks = await page.$eval("#running", ({ dataset: { recipe, accelerator, size } }) => Object.entries({ recipe, accelerator, size }));
  const wanted = [["picture", name], ...marks].map(([mark, value]) => `[data-${mark}="${value}"]`).join("");
  await page.waitForSelector(`#classes${wanted}`, { state: "attached" });
  return page.$$eval("#classes li", (rows) =>
    rows.map((row) => ({
      index: Number(row.dataset.index),
      label: row.querySelector(".label").textContent,
      probability: Number(row.dataset.probability),
      share: row.querySelector(".share").textContent,
      bar: getComputedStyle(row, "::before").transform,
    })),
  );
}

/** Where the boxes on the picture are, as fractions of what the model sees, and what stands at them. */
async function drawnBoxes(page) {
  return page.$$eval("#visible .box", (boxes) =>
    boxes.map((box) => {
      const [a, b] = [box, box.parentElement].map((part) => part.getBoundingClientRect());
      return { place: [(a.left - b.left) / b.width, (a.top - b.top) / b.height, a.width / b.width, a.height / b.height], text: box.textContent };
    }),
  );
}

async function classifySample(page, name) {
  await page.click(`#samples button[data-name="${name}"]`);
  return classes(page, name);
}

async function classifySamples(page, names) {
  const results = {};
  for (const name of names) results[name] = await classifySample(page, name);
  return results;
}

const checks = {
  /** The first load; each sample in each recipe, and on the GPU. */
  async load() {
    const { page, seen, context } = await open(server.url);
    await page.waitForSelector(READY);
    const facts = {
      running: await page.$eval("#running", (running) => [running.textContent, { ...running.dataset }]),
      model: await text(page, "#model"),
      isolated: await page.evaluate(() => crossOriginIsolated),
      recipes: await page.$$eval("#recipe option", (options) => options.map(({ value, text, parentElement }) => [value, [text, parentElement.label ?? null]])),
      samples: await page.$$eval("#samples button", (buttons) => buttons.map(({ dataset }) => dataset.name)),
      results: {},
    };
    await shot(page, "first");
    const small = config.classified.filter((name) => name !== "large.jpg");
    await page.fill("#top-k", "100");
    for (const recipe of ["float32", "float16", "dynamic_int8"]) {
      await choose(page, "#recipe", recipe);
      facts.results[`${recipe} wasm`] = await classifySamples(page, recipe === "float32" ? config.classified : small);
      if (recipe === "float32") facts.large = await blocked(page, "large.jpg");
    }
    await choose(page, "#recipe", "float32");
    await page.fill("#threads", "1");
    await page.press("#threads", "Tab");
    await page.waitForSelector(`${READY}[data-threads="1"]`);
    facts.oneThread = await text(page, "#running");
    facts.results["float32 wasm, 1 thread"] = await classifySamples(page, small);
    await choose(page, "#accelerator", "webgpu");
    facts.gpu = await page.$eval("#running", (running) => [running.textContent, { ...running.dataset }]);
    facts.gpuThreads = await page.isDisabled("#threads");
    facts.results["float32 webgpu"] = await classifySamples(page, small);
    await shot(page, "gpu");
    // Refused, in a sentence, and usable again.
    await page.selectOption("#recipe", "int16x8");
    await page.waitForSelector("#problem:not([hidden])");
    facts.int16x8 = [await text(page, "#problem-text"), await text(page, "#running")];
    await choose(page, "#accelerator", "wasm");
    facts.afterRefusal = await page.isHidden("#problem");
    await page.waitForFunction(() => document.getElementById("offline").textContent);
    facts.offline = await text(page, "#offline");
    await context.close();
    return { ...facts, seen };
  },

  /** What the controls of the result do. */
  async controls() {
    const { page, seen, context } = await open(server.url);
    await page.waitForSelector(READY);
    const name = config.classified[0];
    const facts = { five: await classifySample(page, name) };
    await page.fill("#top-k", "2");
    facts.two = await classes(page, name);
    await page.fill("#top-k", "nonsense".slice(0, 0));
    facts.emptyTopK = await classes(page, name);
    facts.corrected = [];
    for (const count of ["0", "-3", "3"]) {
      await page.fill("#top-k", count);
      await page.press("#top-k", "Tab");
      facts.corrected.push(await page.inputValue("#top-k"));
    }
    await page.locator("#threshold").fill("99");
    facts.none = [await classes(page, name), await text(page, "#classes-note"), await text(page, "#threshold-value")];
    await page.locator("#threshold").fill("0");
    facts.times = await page.$$eval("#times tbody tr", (rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent)));

    // The other ways in: a file, one that is dropped, one that is pasted.
    await page.setInputFiles("#file", join(config.samples, config.classified[1]));
    facts.file = await classes(page, config.classified[1]);
    for (const [kind, from] of [["drop", 2], ["paste", 3]]) {
      const sample = config.classified[from];
      await page.evaluate(give, [kind, sample]);
      facts[kind] = await classes(page, sample);
    }
    facts.preview = await page.$eval("#shown", (image) => [image.alt, image.naturalWidth > 0]);

    // What is no picture, and what to do then.
    await page.evaluate(() => {
      const link = new DataTransfer();
      link.setData("text/uri-list", "https://example.org/a.png");
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: link }));
    });
    await page.waitForSelector("#problem:not([hidden])");
    facts.link = [await text(page, "#problem-text"), await page.$eval("#shown", (image) => image.alt)];
    for (const name of ["letter.png", "cut.jpg", "cut.png"]) {
      await page.setInputFiles("#file", join(config.samples, name));
      await page.waitForFunction((name) => document.getElementById("problem-text").textContent.includes(name), name);
      facts[name] = [await text(page, "#problem-text"), await page.$$eval("#classes li", (rows) => rows.length), await page.isVisible("#retry")];
      if (name === "letter.png") await shot(page, "problem");
    }
    // One that is too large is not even shown: for that the browser would decode it.
    const shown = () => page.$eval("#shown", (image) => [image.src, image.checkVisibility()]);
    const before = await shown();
    await page.setInputFiles("#file", join(config.samples, "bomb.jpg"));
    await page.waitForFunction(() => document.getElementById("problem-text").textContent.includes("bomb.jpg"));
    facts.bomb = [await text(page, "#problem-text"), (await shown())[0] === before[0], (await shown())[1]];
    await page.click("#dismiss");
    facts.dismissed = await page.isHidden("#problem");
    facts.again = await classifySample(page, name);
    await context.close();
    return { ...facts, seen };
  },

  /** Preprocessing of pictures of all kinds, and of all settings, as the page's modules do it. */
  async pictures() {
    const { page, seen, context } = await open(server.url);
    const facts = await page.evaluate(async (settings) => {
      const { decodeFile } = await import("./decode.js");
      const { preprocess } = await import("./preprocess.js");
      const facts = {};
      for (const name of await (await fetch("samples.json")).json()) {
        const file = await (await fetch(`samples/${encodeURIComponent(name)}`)).blob();
        try {
          const { pixels, hidden } = await decodeFile(file, name);
          const inputs = settings.map((setting) => {
            const bytes = new Uint8Array(preprocess(pixels, setting).input.buffer);
            let text = "";
            for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
            return btoa(text);
          });
          facts[name] = { width: pixels.width, height: pixels.height, hidden, inputs };
        } catch (error) {
          facts[name] = { error: `${error.name}: ${error.message}` };
        }
      }
      return facts;
    }, config.settings);
    await context.close();
    return { ...facts, seen };
  },

  /** A camera, on a device that needs 300 ms for a picture; and the times on one that does not. */
  async camera() {
    const { page, seen, context } = await open(server.url, { permissions: ["camera"] }, slowWorkers);
    await page.waitForSelector(READY);
    await classifySample(page, config.classified[0]);
    const live = () => page.waitForFunction(() => Number(document.getElementById("live-note").textContent.match(/(\d+) pictures/)?.[1]) >= 5);
    await page.click("#camera");
    await live();
    await page.evaluate(() => (window.slow = 300));
    const before = await text(page, "#live-note");
    const started = Date.now();
    await page.waitForTimeout(3000);
    const facts = { before, after: await text(page, "#live-note"), seconds: (Date.now() - started) / 1000 };
    facts.mostAtOnce = await page.evaluate(() => window.mostAtOnce);
    facts.times = await page.$$eval("#times tbody tr", (rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent)));
    facts.classes = await page.$$eval("#classes li", (rows) => rows.length);
    facts.aloud = await page.getAttribute("#classes", "aria-live");
    facts.button = await page.$eval("#camera", (button) => [button.textContent, button.getAttribute("aria-pressed")]);
    await page.evaluate(() => (window.slow = 0));
    // Another model while the camera runs: what is counted begins again.
    await page.evaluate(() => {
      window.counts = [];
      new MutationObserver(() => window.counts.push(Number(document.getElementById("live-note").textContent.match(/(\d+) pictures/)?.[1]))).observe(
        document.getElementById("live-note"),
        { childList: true },
      );
    });
    await choose(page, "#recipe", "float16");
    await page.waitForFunction(() => window.counts.slice(window.counts.indexOf(1)).length >= 5);
    facts.counts = await page.evaluate(() => window.counts);
    facts.switched = await text(page, "#running");
    await shot(page, "camera");
    await page.click("#camera");
    await page.waitForTimeout(300);
    facts.stopped = await page.evaluate(() => [document.getElementById("video").srcObject, document.getElementById("camera").ariaPressed]);
    facts.emptied = await page.$$eval("#classes li", (rows) => rows.length);
    facts.sampleAfter = await classifySample(page, config.classified[0]);

    // Stopped and started again at once, one loop runs, of one camera: each count comes once.
    await page.click("#camera");
    await live();
    await page.evaluate(() => {
      window.counts = [];
      for (let i = 0; i < 2; i++) document.getElementById("camera").click();
    });
    await page.waitForFunction(() => window.counts.slice(window.counts.indexOf(1)).length >= 8);
    facts.restarted = await page.evaluate(() => window.counts);
    // Two clicks while the permission is asked for, and a sample that is chosen meanwhile.
    await page.click("#camera");
    await page.evaluate(() => {
      const { getUserMedia } = navigator.mediaDevices;
      window.streams = [];
      window.release = [];
      navigator.mediaDevices.getUserMedia = async (wanted) => {
        await new Promise((resolve) => window.release.push(resolve));
        window.streams.push(await getUserMedia.call(navigator.mediaDevices, wanted));
        return window.streams.at(-1);
      };
      for (let i = 0; i < 2; i++) document.getElementById("camera").click();
    });
    facts.chosenMeanwhile = await classifySample(page, config.classified[1]);
    await page.evaluate(() => window.release.forEach((resolve) => resolve()));
    await page.waitForFunction(() => window.streams.length === 2);
    await page.waitForTimeout(300);
    const running = () => window.streams.flatMap((stream) => stream.getTracks()).filter(({ readyState }) => readyState === "live").length;
    facts.late = [await page.evaluate(running), await page.isVisible("#shown"), await page.isVisible("#video")];
    // A camera that is pulled out.
    await page.click("#camera");
    await page.evaluate(() => window.release.at(-1)());
    await live();
    await page.evaluate(() => window.streams.at(-1).getTracks().forEach((track) => track.stop()));
    await page.waitForSelector("#problem:not([hidden])");
    facts.ended = [await text(page, "#problem-text"), await page.getAttribute("#camera", "aria-pressed")];
    await context.close();

    const denied = await open(server.url, {}, () => {
      navigator.mediaDevices.getUserMedia = async () => Promise.reject(new DOMException("Permission denied", "NotAllowedError"));
    });
    await denied.page.waitForSelector(READY);
    await classifySample(denied.page, config.classified[0]);
    await denied.page.click("#camera");
    await denied.page.waitForSelector("#problem:not([hidden])");
    facts.denied = [await text(denied.page, "#problem-text"), await pressed(denied.page), (await classes(denied.page, config.classified[0])).length, denied.seen];
    await denied.context.close();
    return { ...facts, seen };
  },

  /** What was chosen last is what is shown; and a worker that ends. */
  async chosen() {
    const { page, seen, context } = await open(server.url, {}, slowWorkers, "no service worker");
    await page.waitForSelector(READY);
    const [first, second] = config.classified;
    const facts = { before: await classifySample(page, first) };
    // Another picture: nothing of the one before stands beside it.
    await page.evaluate(() => (window.slow = 1500));
    await page.click(`#samples button[data-name="${second}"]`);
    await page.waitForFunction((name) => document.getElementById("shown").alt.endsWith(name), second);
    facts.between = await page.$$eval("#classes li, #times td", (cells) => cells.map(({ textContent }) => textContent));
    await page.click(`#samples button[data-name="${first}"]`);
    facts.after = await classes(page, first);
    await page.evaluate(() => (window.slow = 0));

    // A sample that comes later than one that was chosen after it.
    const release = [];
    await page.route(`**/samples/${second}`, (route) => release.push(route));
    await page.click(`#samples button[data-name="${second}"]`);
    await page.waitForFunction((name) => document.querySelector(`#samples [data-name="${name}"]`).ariaPressed === "true", second);
    await page.evaluate(() => delete document.getElementById("classes").dataset.picture);
    await classifySample(page, first);
    for (const route of release) await route.continue();
    await page.unroute(`**/samples/${second}`);
    await page.waitForTimeout(500);
    const chosen = async () => [await page.$eval("#shown", (image) => image.alt), await pressed(page)];
    facts.late = await chosen();

    // A clipboard that is read later than a choice that came after it; then one that may not be read.
    await page.evaluate(() => {
      navigator.clipboard.read = () => new Promise((resolve, reject) => Object.assign(window, { resolve, reject }));
    });
    await page.click("#paste");
    await classifySample(page, second);
    await page.evaluate(async (name) => {
      const picture = await (await fetch(`samples/${name}`)).blob();
      window.resolve([{ types: [picture.type], getType: async () => picture }]);
    }, first);
    await page.waitForTimeout(500);
    facts.latePaste = await chosen();
    await page.click("#paste");
    await page.evaluate(() => window.reject(new DOMException("no", "NotAllowedError")));
    await page.waitForSelector("#problem:not([hidden])");
    facts.deniedPaste = [...(await chosen()), await text(page, "#problem-text")];

    // A download that is no longer wanted is given up, and holds up nothing; a picture that is chosen meanwhile is classified once.
    const failed = new Promise((resolve) => page.on("requestfailed", (request) => resolve(request.url())));
    await page.route("**/float16.tflite*", () => {});
    await page.selectOption("#recipe", "float16");
    await page.waitForFunction(() => document.getElementById("running").textContent.startsWith("Loading float16"));
    await page.evaluate(() => (window.runs = 0));
    await page.setInputFiles("#file", join(config.samples, config.classified[2]));
    await choose(page, "#recipe", "float32");
    facts.superseded = [await classes(page, config.classified[2]), await failed];
    await page.waitForTimeout(300);
    facts.runs = await page.evaluate(() => window.runs);

    // A worker that ends while nobody waits for it.
    await page.evaluate(() => window.workers.at(-1).dispatchEvent(new ErrorEvent("error", { message: "out of memory", cancelable: true })));
    await page.setInputFiles("#file", join(config.samples, config.classified[1]));
    await page.waitForSelector("#problem:not([hidden])");
    facts.died = [await text(page, "#problem-text"), await text(page, "#running"), await text(page, "#problem-details pre")];
    await page.click("#retry");
    facts.revived = await classes(page, config.classified[1]);
    await context.close();
    return { ...facts, seen };
  },

  /** The map on the picture, of a model that gives features and attention, and no classes. */
  async map() {
    const features = await serve(config.features);
    const { page, seen, context } = await open(features.url);
    await page.waitForSelector(READY);
    const facts = { options: await page.$$eval("#map-output option", (options) => options.map(({ text }) => text)), maps: {} };
    const name = config.classified[0];
    await page.click(`#samples button[data-name="${name}"]`);
    for (const option of facts.options) {
      await page.selectOption("#map-output", { label: option });
      if (option === "none") {
        facts.none = await page.isHidden("#map");
        continue;
      }
      await page.waitForSelector(`#map[data-output="${option}"]:not([hidden])`);
      facts.maps[option] = await page.evaluate(() => {
        const canvas = document.getElementById("map");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const [part, picture, drawn] = ["visible", "shown", "map"].map((id) => document.getElementById(id).getBoundingClientRect());
        const place = (a, b) => [(a.left - b.left) / b.width, (a.top - b.top) / b.height, a.width / b.width, a.height / b.height];
        const image = document.getElementById("shown");
        const shape = [image.naturalWidth, image.naturalHeight, image.clientWidth, image.clientHeight];
        return { rows: canvas.height, columns: canvas.width, data: [...data], part: place(part, picture), drawn: place(drawn, part), shape };
      });
    }
    facts.note = await text(page, "#classes-note");
    facts.ofClasses = [await page.isVisible("#top-k"), await page.isVisible("#threshold")];
    facts.explanation = await text(page, "#map-note");
    await shot(page, "map");
    await context.close();
    await features.stop();
    return { ...facts, seen };
  },

  /** Boxes, and a mask, on a picture: of a detector and a segmenter. */
  async dense() {
    const all = [];
    for (const bundle of config.dense) {
      const own = await serve(bundle);
      const { page, seen, context } = await open(own.url);
      await page.waitForSelector(READY);
      const name = config.classified[1];
      const facts = { titles: [await text(page, "#classes-title"), await text(page, "#top-k-name"), await text(page, "#threshold-value")] };
      await classifySample(page, name);
      facts.few = await drawnBoxes(page);
      await page.fill("#threshold", bundle.endsWith("boxes") ? "20" : "0");
      facts.rows = await classes(page, name);
      facts.drawn = await drawnBoxes(page);
      facts.map = await page.evaluate(() => {
        const canvas = document.getElementById("map");
        return canvas.hidden ? null : { data: [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data] };
      });
      facts.part = [await page.isVisible("#map-strength"), await page.isVisible("#map-output")];
      await shot(page, `dense-${all.length}`);
      await context.close();
      await own.stop();
      all.push({ ...facts, seen });
    }
    return all;
  },

  /** A bundle whose files take pictures of two sizes. */
  async sizes() {
    const own = await serve(config.sizes);
    const { page, seen, context } = await open(own.url);
    await page.waitForSelector(READY);
    const [name] = config.classified;
    await page.fill("#top-k", "100");
    await classifySample(page, name);
    const facts = { options: await page.$$eval("#size option", (options) => options.map(({ text }) => text)), results: {}, model: {}, running: {} };
    for (const accelerator of ["wasm", "webgpu"]) {
      await choose(page, "#accelerator", accelerator);
      for (const size of ["1", "0"]) {
        await choose(page, "#size", size);
        facts.results[`${size} ${accelerator}`] = await classes(page, name);
        facts.model[size] = await text(page, "#model");
        facts.running[`${size} ${accelerator}`] = await text(page, "#running");
      }
    }
    await choose(page, "#size", "1");
    await shot(page, "sizes");
    await context.close();
    await own.stop();
    const one = await open(server.url);
    await one.page.waitForSelector(READY);
    facts.hidden = await one.page.isHidden("#size");
    await one.context.close();
    return { ...facts, seen };
  },

  /** Without the server, after one visit. */
  async offline() {
    const own = await serve(config.bundle);
    const { page, seen, context } = await open(own.url);
    await page.waitForSelector(READY);
    const before = await classifySample(page, config.classified[0]);
    await page.waitForFunction(() => document.getElementById("offline").textContent);
    await own.stop();
    const unreachable = await fetch(own.url).then(() => false, () => true);
    seen.errors = [];
    await page.reload();
    await page.waitForSelector(READY);
    const facts = { unreachable, before, after: await classifySample(page, config.classified[0]), isolated: await page.evaluate(() => crossOriginIsolated) };
    await choose(page, "#recipe", "float32");
    facts.float32 = await classifySample(page, config.classified[0]);
    facts.running = await text(page, "#running");
    await choose(page, "#accelerator", "webgpu");
    facts.gpu = await classifySample(page, config.classified[0]);
    await shot(page, "offline");
    const client = await context.newCDPSession(page);
    facts.installable = await client.send("Page.getInstallabilityErrors");
    facts.manifest = (await client.send("Page.getAppManifest")).errors;
    await context.close();
    return { ...facts, seen };
  },

  /** A bundle in the place of another, whose files have the same names; then without the server. Of its float32 file the classes are no numbers. */
  async replaced() {
    let own = await serve(config.bundle);
    const { page, seen, context } = await open(own.url);
    const visited = () => page.waitForFunction(() => document.getElementById("offline").textContent);
    await visited();
    await own.stop();
    own = await serve(config.other, new URL(own.url).port);
    await page.reload();
    await visited();
    await classifySample(page, config.classified[0]);
    await own.stop();
    await page.reload();
    await choose(page, "#recipe", "float32");
    const facts = { running: await text(page, "#running") };
    await page.click(`#samples button[data-name="${config.classified[0]}"]`);
    await page.waitForSelector("#problem:not([hidden])");
    facts.problem = await text(page, "#problem-text");
    facts.rows = await page.$$eval("#classes li", (rows) => rows.length);
    facts.kept = await page.evaluate(async () => {
      const keys = await Promise.all((await caches.keys()).map(async (name) => (await caches.open(name)).keys()));
      return keys.flat().map(({ url }) => url).filter((url) => url.includes(".tflite")); // prettier-ignore
    });
    await context.close();
    return { ...facts, seen };
  },

  /** A bundle that is broken or was changed, and what is said; then repaired, without another visit. */
  async broken() {
    const facts = {};
    const path = join(config.bundle, "float16.tflite");
    const content = readFileSync(path);
    const { page, seen, context } = await open(server.url);
    await page.waitForSelector(READY);
    const changed = Buffer.from(content);
    changed[changed.length >> 1] ^= 1;
    writeFileSync(path, changed);
    await page.selectOption("#recipe", "float16");
    await page.waitForSelector("#problem:not([hidden])");
    facts.changed = [await text(page, "#problem-text"), await text(page, "#running")];
    await shot(page, "changed");
    writeFileSync(path, content);
    await page.click("#retry");
    await page.waitForSelector(`${READY}[data-recipe=float16]`);
    facts.repaired = [await page.isHidden("#problem"), await text(page, "#running")];
    await context.close();

    const model = join(config.bundle, "model.json");
    const description = readFileSync(model, "utf8");
    for (const [name, broken] of [["json", description.slice(0, 99)], ["version", description.replace('"format_version": 1', '"format_version": 2')]]) {
      writeFileSync(model, broken);
      const { page, seen, context } = await open(server.url);
      await page.waitForSelector("#problem:not([hidden])");
      facts[name] = [await text(page, "#problem-text"), await text(page, "#running"), seen];
      writeFileSync(model, description);
      if (name === "version") {
        await page.click("#retry");
        await page.waitForSelector(READY);
        facts.reloaded = await text(page, "#running");
      }
      await context.close();
    }
    writeFileSync(model, description.replace('"cpu": "dynamic_int8"', '"cpu": "nope"'));
    const wrong = await open(server.url);
    await wrong.page.waitForSelector("#problem:not([hidden])");
    facts.recommended = [await text(wrong.page, "#problem-text"), await text(wrong.page, "#running"), await wrong.page.inputValue("#recipe")];
    await choose(wrong.page, "#recipe", "float16");
    facts.recommended.push(await text(wrong.page, "#running"));
    await wrong.context.close();
    writeFileSync(model, description);

    const own = await serve(config.unfit);
    const unfit = await open(own.url);
    await unfit.page.waitForSelector("#problem:not([hidden])");
    await unfit.page.click(`#samples button[data-name="${config.classified[0]}"]`);
    await unfit.page.waitForTimeout(500);
    const details = "#problem-details pre";
    const shown = [await text(unfit.page, details), await unfit.page.isVisible(details)];
    await unfit.page.click("#problem-details summary");
    shown.push(await unfit.page.isVisible(details));
    await shot(unfit.page, "details");
    const rows = await unfit.page.$$eval("#classes li", (rows) => rows.length);
    facts.unfit = [await text(unfit.page, "#problem-text"), await text(unfit.page, "#running"), rows, shown];
    await unfit.context.close();
    await own.stop();
    return { ...facts, seen };
  },

  /** Browsers that lack something. */
  async lacking() {
    const facts = {};
    const lacks = {
      "no WebGPU": () => Object.defineProperty(Navigator.prototype, "gpu", { value: undefined }),
      "no adapter": () => (GPU.prototype.requestAdapter = async () => null),
    };
    for (const [name, script] of Object.entries(lacks)) {
      const { page, context, seen } = await open(server.url, {}, script);
      await page.waitForSelector(READY);
      facts[name] = {
        running: await text(page, "#running"),
        disabled: await page.$eval("#accelerator option[value=webgpu]", (option) => option.disabled),
        note: await text(page, "#accelerator-note"),
        result: await classifySample(page, config.classified[0]),
        seen,
      };
      if (name === "no WebGPU") await shot(page, "no-webgpu");
      await context.close();
    }
    // By http from another machine browsers give no service worker, no threads and no sha256. The address is this machine's all the same.
    const insecure = await open(server.url, {}, () => {
      Object.defineProperty(globalThis, "isSecureContext", { value: false });
      Object.defineProperty(globalThis, "crossOriginIsolated", { value: false });
      Object.defineProperty(Navigator.prototype, "serviceWorker", { value: undefined });
      Object.defineProperty(Navigator.prototype, "mediaDevices", { value: undefined });
      Object.defineProperty(Crypto.prototype, "subtle", { value: undefined });
    });
    await insecure.page.waitForSelector(READY);
    await insecure.page.click("#camera");
    await insecure.page.waitForSelector("#problem:not([hidden])");
    facts.insecure = {
      problem: await text(insecure.page, "#problem-text"),
      note: await text(insecure.page, "#threads-note"),
      result: await classifySample(insecure.page, config.classified[0]),
      running: await text(insecure.page, "#running"),
      seen: insecure.seen,
    };
    await insecure.context.close();
    return facts;
  },

  /** 360 pixels, light and dark, by keyboard, without motion. */
  async reading() {
    const { page, seen, context } = await open(server.url, { viewport: { width: 360, height: 740 }, reducedMotion: "reduce", hasTouch: true });
    await page.waitForSelector(READY);
    await classifySample(page, config.classified[0]);
    const facts = {
      width: await page.evaluate(() => document.documentElement.scrollWidth),
      // Whatever a finger is to hit.
      small: await page.$$eval("button, select, input:not([type=file])", (all) =>
        all
          .filter((one) => one.offsetParent)
          .map((one) => [one.id || one.dataset.name, one.getBoundingClientRect()])
          .filter(([, { width, height }]) => width < 44 || height < 32)
          .map(([name]) => name),
      ),
      motion: await page.$$eval("#classes li", ([row]) => getComputedStyle(row, "::before").transitionDuration),
      contrast: {},
    };
    // As a screen reader gets them.
    const { nodes } = await (await context.newCDPSession(page)).send("Accessibility.getFullAXTree");
    const roles = ["button", "combobox", "spinbutton", "slider", "image", "Video", "region", "table", "list", "progressbar", "group"];
    const told = nodes.filter(({ ignored, role }) => !ignored && roles.includes(role.value));
    facts.named = told.map(({ name }) => name?.value).filter(Boolean);
    facts.unnamed = told.filter(({ name }) => !name?.value).map(({ role }) => role.value);
    for (const scheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
      await page.evaluate(() => (document.getElementById("problem").hidden = false, (document.getElementById("problem-text").textContent = "x")));
      facts.contrast[scheme] = await page.evaluate(contrasts);
      await page.evaluate(() => (document.getElementById("problem").hidden = true));
      await shot(page, `narrow-${scheme}`, { fullPage: true });
    }
    await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
    // By keyboard alone: every control is reached, the focus is seen, and a sample is chosen.
    await page.evaluate(() => scrollTo(0, 0));
    await page.click("h1"); // Where Tab starts from.
    facts.reached = [];
    facts.outlines = [];
    for (let i = 0; i < 150; i++) {
      await page.keyboard.press("Tab");
      const [name, outline] = await page.evaluate(() => {
        const { activeElement: one } = document;
        return [one.id || one.dataset.name || one.tagName, getComputedStyle(one).outlineStyle];
      });
      if (name === "BODY" || facts.reached.includes(name)) break;
      facts.reached.push(name);
      facts.outlines.push(outline);
    }
    const sample = (name) => `#samples button[data-name="${name}"]`;
    await page.focus(sample(config.classified[1]));
    await page.keyboard.press("Enter");
    facts.byKeyboard = await classes(page, config.classified[1]);
    // A problem comes into sight, and closed it leaves the focus where it was.
    await page.focus(sample("letter.png"));
    await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
    await page.keyboard.press("Enter");
    await page.waitForSelector("#problem:not([hidden])");
    facts.problemAt = await page.$eval("#problem", (problem) => [problem.getBoundingClientRect().top, innerHeight]);
    await page.focus("#dismiss");
    await page.keyboard.press("Enter");
    facts.focused = await page.evaluate(() => document.activeElement.dataset.name);
    await page.setViewportSize({ width: 1180, height: 1000 });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.waitForTimeout(400);
    await shot(page, "dark");
    await context.close();
    return { ...facts, seen };
  },
};

/** In the page: lets a file fall into it, or pastes it. */
async function give([kind, name]) {
  const files = new DataTransfer();
  const blob = await (await fetch(`samples/${encodeURIComponent(name)}`)).blob();
  files.items.add(new File([blob], name, { type: blob.type }));
  const options = { bubbles: true, cancelable: true };
  const target = document.getElementById("drop");
  target.dispatchEvent(kind === "drop" ? new DragEvent("drop", { ...options, dataTransfer: files }) : new ClipboardEvent("paste", { ...options, clipboardData: files }));
}

/** In the page, before its scripts: holds up what workers are asked by `slow` milliseconds, and counts how much they are asked, and at once. */
function slowWorkers(without) {
  if (without === "no service worker") Object.defineProperty(Navigator.prototype, "serviceWorker", { value: undefined });
  Object.assign(window, { slow: 0, mostAtOnce: 0, runs: 0, workers: [] });
  let atOnce = 0;
  const { postMessage } = Worker.prototype;
  Worker.prototype.postMessage = function (message, moved) {
    if (!window.workers.includes(this)) window.workers.push(this);
    if (message.kind === "run") {
      window.runs++;
      window.mostAtOnce = Math.max(window.mostAtOnce, ++atOnce);
      this.addEventListener("message", () => atOnce--, { once: true });
    }
    setTimeout(() => postMessage.call(this, message, moved), window.slow);
  };
}

/** How often the page did something else while a worker classified a large photo. */
async function blocked(page, name) {
  await page.evaluate(() => {
    let pending = false;
    window.ticks = 0;
    window.ticking = setInterval(() => (window.ticks += Number(pending)), 5);
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (message, moved) {
      pending = message.kind === "run";
      this.addEventListener("message", () => (pending = false), { once: true });
      postMessage.call(this, message, moved);
    };
  });
  await classifySample(page, name);
  return page.evaluate(() => {
    clearInterval(window.ticking);
    return { ticks: window.ticks, total: Number(document.querySelector("#times [data-part=total] td").textContent) };
  });
}

/** In the page: texts and borders whose colour is too near to what is behind them, as WCAG counts. */
function contrasts() {
  const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.offsetParent || one.closest(":disabled, noscript")) continue;
    const backgrounds = [behind(one)];
    if (one.closest("#classes li")) backgrounds.push(parse(getComputedStyle(one.closest("li"), "::before").backgroundColor));
    for (const background of backgrounds) {
      const [a, b] = [light(parse(getComputedStyle(one).color)), light(background)].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < 4.5) poor.push([one.id || one.className || one.tagName, one.textContent.slice(0, 20), ratio]);
    }
  }
  // What shows where a control is.
  for (const one of document.querySelectorAll("button, select, input[type=number]")) {
    if (!one.offsetParent || one.disabled) continue;
    const [a, b] = [light(parse(getComputedStyle(one).borderTopColor)), light(behind(one.parentElement))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 3) poor.push(["border", one.id || one.dataset.name, (a + 0.05) / (b + 0.05)]);
  }
  return poor;
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
const server = await serve(config.bundle);
const facts = { browser: browser.version(), seconds: {} };
for (const [name, check] of Object.entries(checks)) {
  if (process.argv[3] && !process.argv[3].split(",").includes(name)) continue;
  const started = Date.now();
  // One check that fails leaves the others their say.
  facts[name] = await check().catch((error) => ({ failed: error.stack }));
  facts.seconds[name] = (Date.now() - started) / 1000;
}
await browser.close();
await server.stop();
process.stdout.write(JSON.stringify(facts));
