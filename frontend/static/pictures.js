// The candidates, from wherever they come: files, the clipboard, a drag, an address.

let last = 0;

/** A picture from bytes that the browser has. */
export function fromFile(file, name = file.name) {
  return {
    id: String(++last),
    name: name || "picture",
    note: size(file.size),
    preview: URL.createObjectURL(file),
    /** The address to send: a data: URI. */
    address: () => dataUri(file),
  };
}

/** A picture by its address, or null. A data: URI can be shown, any other is the service's to fetch. */
export function fromAddress(text) {
  const isData = /^data:image\//i.test(text);
  if (!isData && !(/^https?:/i.test(text) && URL.canParse(text))) return null;
  const url = new URL(text);
  const path = isData ? "" : decoded(url.pathname.split("/").findLast(Boolean) ?? "");
  return {
    id: String(++last),
    name: isData ? "picture of a data: URI" : path || url.host,
    note: isData ? "" : "fetched by the service",
    host: url.host,
    preview: isData ? text : null,
    address: async () => text,
  };
}

/** What was pasted or dropped: its files, or else the addresses in its text. */
export function fromTransfer(transfer) {
  const files = [...transfer.files];
  if (files.length > 0) return files.map((file) => fromFile(file));
  return fromText(transfer.getData("text/uri-list") || transfer.getData("text/plain"));
}

/** The addresses of a text, with blanks between them; none if there is anything else but comments. */
export function fromText(text) {
  const words = text.replace(/^#.*$/gm, "").split(/\s+/).filter(Boolean);
  const pictures = words.map(fromAddress);
  return pictures.includes(null) ? [] : pictures;
}

/** Give back the memory of what was shown. */
export function release(picture) {
  if (picture.preview?.startsWith("blob:")) URL.revokeObjectURL(picture.preview);
}

/** A number of bytes, for people. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
