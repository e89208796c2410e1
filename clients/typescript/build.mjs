// node build.mjs PACKAGE…: compiles each twice, as ES modules and as CommonJS: dist/esm, dist/cjs.
import { spawnSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const tsc = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
const forms = [
  ["esm", "ES2022", "Bundler", "module"],
  ["cjs", "CommonJS", "Node10", "commonjs"],
];

for (const directory of process.argv.slice(2)) {
  rmSync(join(directory, "dist"), { recursive: true, force: true });
  for (const [name, module, resolution, type] of forms) {
    const folder = join(directory, "dist", name);
    const options = ["--module", module, "--moduleResolution", resolution, "--outDir", folder];
    const { status } = spawnSync(process.execPath, [tsc, "-p", directory, ...options], { stdio: "inherit" });
    if (status !== 0) process.exit(1);
    writeFileSync(join(folder, "package.json"), JSON.stringify({ type }) + "\n");
  }
}
