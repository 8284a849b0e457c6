// Opens a page in Chromium at several widths and prints, as JSON, what was found there.
//
// usage: NODE_PATH=.../node_modules node look.cjs CHROMIUM PAGE FOLDER WIDTH...
//
// At each width: whether the page has to be scrolled to the side, and what axe-core has against it. Besides:
// requests beyond the page itself, dialogs and errors of scripts, the text that is seen. FOLDER gets a picture
// of each width, and the page as it is printed.
const fs = require("fs");
const path = require("path");
const { pathToFileURL } = require("url");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf-8");

const FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

async function look(executable, page_path, folder, widths) {
  const browser = await chromium.launch({ executablePath: executable, args: FLAGS, chromiumSandbox: false });
  const found = { widths: {}, requests: [], dialogs: [], errors: [] };
  try {
    const address = pathToFileURL(path.resolve(page_path)).href;
    const page = await browser.newPage();
    page.on("request", (request) => {
      if (request.url() !== address && !request.url().startsWith("data:")) found.requests.push(request.url());
    });
    page.on("dialog", (dialog) => { found.dialogs.push(dialog.message()); dialog.dismiss(); });
    page.on("pageerror", (error) => found.errors.push(String(error)));
    for (const width of widths.map(Number)) {
      await page.setViewportSize({ width, height: 900 });
      await page.goto(address, { waitUntil: "load" });
      const overflow = await page.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      await page.screenshot({ path: path.join(folder, `${width}.png`), fullPage: true });
      await page.evaluate(axe);
      const { violations, passes } = await page.evaluate(() => window.axe.run());
      found.widths[width] = {
        overflow,
        violations: violations.map(
          (one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html.slice(0, 200)).join(" | ")}`),
        passes: passes.map((one) => one.id),
      };
    }
    found.text = await page.evaluate(() => document.body.innerText);
    found.title = await page.title();
    found.broken_images = await page.evaluate(
      () => [...document.images].filter((one) => one.naturalWidth === 0).length);
    await page.pdf({ path: path.join(folder, "printed.pdf"), format: "A4" });
  } finally {
    await browser.close();
  }
  return found;
}

const [executable, page_path, folder, ...widths] = process.argv.slice(2);
look(executable, page_path, folder, widths).then(
  (found) => process.stdout.write(JSON.stringify(found)),
  (error) => { process.stderr.write(`${error.stack}\n`); process.exit(1); });
