/** Images as a caller has them, and as the request's JSON has them. */

/** The bytes of an image file: a `Blob` or `File`, a `Buffer` or another view, or an `ArrayBuffer`. */
export type ImageBytes = Blob | ArrayBuffer | ArrayBufferView;

/** Exactly one of three: an address that the service fetches, base64 or a data: URI, or bytes. */
export type ImageSource =
  | { image_url: string; image_base64?: never; image?: never }
  | { image_url?: never; image_base64: string; image?: never }
  | { image_url?: never; image_base64?: never; image: ImageBytes };

const CHUNK_BYTES = 0x6000; // a multiple of three, and few enough for arguments of one call

/** Replace bytes by base64; what is given otherwise goes as it is. */
export async function written<T extends { image?: ImageBytes }>(
  item: T,
): Promise<Omit<T, "image"> & { image_base64?: string }> {
  const { image, ...others } = item;
  return image === undefined ? others : { ...others, image_base64: base64(await bytesOf(image)) };
}

async function bytesOf(image: ImageBytes): Promise<Uint8Array> {
  if (image instanceof ArrayBuffer) return new Uint8Array(image);
  if (ArrayBuffer.isView(image)) return new Uint8Array(image.buffer, image.byteOffset, image.byteLength);
  return new Uint8Array(await image.arrayBuffer());
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (let start = 0; start < bytes.length; start += CHUNK_BYTES) {
    text += btoa(String.fromCharCode(...bytes.subarray(start, start + CHUNK_BYTES)));
  }
  return text;
}
