// The built package, in the module system that MODULE_SYSTEM names.
import { createRequire } from "node:module";

const workspace = new URL("../../../clients/typescript/", import.meta.url);
const require = createRequire(workspace);

export const client =
  process.env.MODULE_SYSTEM === "cjs"
    ? require("@lilith/imajin-aesthetic-client")
    : await import(new URL("client/dist/esm/index.js", workspace).href);
export const schemas =
  process.env.MODULE_SYSTEM === "cjs"
    ? require("@lilith/imajin-aesthetic-types/zod")
    : await import(new URL("types/dist/esm/zod.js", workspace).href);
export const checkout = new URL("../../../", import.meta.url);
