// Takes the pictures of docs/demo_apps.md: node screenshots.mjs PYTHON BUNDLE FEATURES SAMPLES FOLDER
// BUNDLE and SAMPLES are of `swin-keras demo`; FEATURES is a bundle of the same model as a backbone with attention.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";

const root = join(import.meta.dirname, "../../..");
const { chromium } = createRequire(join(root, "edge_demo/web/package.json"))("playwright-core");
const [python, bundle, features, samples, folder] = process.argv.slice(2);
const args = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });

async function open(served, options, take) {
  const server = spawn(python, ["-m", "edge_demo.serve", "--bundle", served, "--samples", samples, "--port", "0"], { cwd: root });
  const line = await new Promise((resolve) => server.stdout.once("data", resolve));
  const page = await (await browser.newContext(options)).newPage();
  await page.goto(String(line).split(" ")[0]);
  await page.waitForSelector("#running:is([data-state=ready], [data-state=partly])");
  await page.waitForFunction(() => document.getElementById("offline").textContent);
  await take(page);
  await page.close();
  server.kill("SIGINT");
}

async function sample(page, name) {
  await page.click(`#samples button[data-name="${name}"]`);
  await page.waitForSelector(`#classes[data-picture="${name}"]`, { state: "attached" });
  await page.waitForTimeout(600);
}

await open(bundle, { viewport: { width: 1120, height: 900 } }, async (page) => {
  await sample(page, "3_12.png");
  await page.screenshot({ path: join(folder, "web_desktop.png") });
});
await open(bundle, { viewport: { width: 360, height: 740 }, colorScheme: "dark" }, async (page) => {
  await sample(page, "3_12.png");
  await page.screenshot({ path: join(folder, "web_phone.png"), fullPage: true });
});
await open(features, { viewport: { width: 1120, height: 900 } }, async (page) => {
  await page.selectOption("#map-output", { label: "layers_0_blocks_1_attention" });
  await sample(page, "3_12.png");
  await page.locator(".picture").screenshot({ path: join(folder, "web_map.png") });
});
await browser.close();
