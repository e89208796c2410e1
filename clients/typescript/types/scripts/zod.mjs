// Writes Zod schemas of the OpenAPI document's components: node zod.mjs openapi.json zod.ts
import { readFileSync, writeFileSync } from "node:fs";

const [source, target] = process.argv.slice(2);
const components = withoutForms(JSON.parse(readFileSync(source, "utf8")).components.schemas);

writeFileSync(target, [header(), ...sorted(components).map(declaration)].join("\n"));

function header() {
  return `// Generated from clients/openapi.json by scripts/zod.mjs; do not edit.
/** Zod schemas of requests, answers and errors, by the names of the OpenAPI document. */
import { z } from "zod";
`;
}

/** Forms are no JSON: a file in them has no schema here. */
function withoutForms(schemas) {
  const isForm = (schema) => Object.values(schema.properties ?? {}).some((field) => field.format === "binary");
  return Object.fromEntries(Object.entries(schemas).filter(([, schema]) => !isForm(schema)));
}

/** Names, each after those that it refers to. */
function sorted(schemas) {
  const names = [];
  const visit = (name) => {
    if (names.includes(name)) return;
    references(schemas[name]).forEach(visit);
    if (!names.includes(name)) names.push(name);
  };
  Object.keys(schemas).sort().forEach(visit);
  return names;
}

function references(node) {
  if (node === null || typeof node !== "object") return [];
  const own = typeof node.$ref === "string" ? [nameOf(node.$ref)] : [];
  return [...own, ...Object.values(node).flatMap(references)];
}

function nameOf(reference) {
  return reference.split("/").at(-1);
}

function declaration(name) {
  const schema = components[name];
  const comment = schema.description ? `/** ${schema.description.replaceAll("*/", "* /")} */\n` : "";
  return `${comment}export const ${name} = ${expression(schema)};
export type ${name} = z.infer<typeof ${name}>;
`;
}

function expression(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.anyOf) return union(schema.anyOf);
  if ("const" in schema) return `z.literal(${JSON.stringify(schema.const)})`;
  if (schema.enum) return `z.enum(${JSON.stringify(schema.enum)})`;
  switch (schema.type) {
    case "object":
      return object(schema);
    case "array":
      return `z.array(${expression(schema.items)})` + bounds(schema, "Items");
    case "string":
      return "z.string()" + bounds(schema, "Length");
    case "integer":
      return "z.int()" + limits(schema);
    case "number":
      return "z.number()" + limits(schema);
    case "boolean":
      return "z.boolean()";
    case "null":
      return "z.null()";
  }
  throw new Error(`no Zod schema for ${JSON.stringify(schema)}`);
}

function union(members) {
  const others = members.filter((member) => member.type !== "null");
  const written = others.map(expression);
  const one = written.length === 1 ? written[0] : `z.union([${written.join(", ")}])`;
  return one + (others.length < members.length ? ".nullable()" : "");
}

function object(schema) {
  const { properties, additionalProperties: others } = schema;
  if (!properties) return `z.record(z.string(), ${others === true ? "z.unknown()" : expression(others)})`;
  const required = new Set(schema.required);
  const fields = Object.entries(properties).map(([name, property]) => {
    const comment = property.description ? `  /** ${property.description} */\n` : "";
    return `${comment}  ${name}: ${expression(property)}${required.has(name) ? "" : ".optional()"},`;
  });
  const kind = others === false ? "z.strictObject" : "z.object";
  return `${kind}({\n${fields.join("\n")}\n})${exactlyOne(schema["x-exactly-one-of"])}`;
}

function exactlyOne(names) {
  if (!names) return "";
  const count = names.map((name) => `Number(value.${name} != null)`).join(" + ");
  const message = JSON.stringify(`exactly one of ${names.join(" and ")} is needed`);
  return `.refine((value) => ${count} === 1, ${message})`;
}

function bounds(schema, what) {
  const least = schema[`min${what}`];
  const most = schema[`max${what}`];
  return (least === undefined ? "" : `.min(${least})`) + (most === undefined ? "" : `.max(${most})`);
}

function limits(schema) {
  const least = schema.minimum === undefined ? "" : `.gte(${schema.minimum})`;
  return least + (schema.maximum === undefined ? "" : `.lte(${schema.maximum})`);
}
