// The text "parameters" of a PNG, from its tEXt and iTXt parts before the pixels; null where it has none.
export function parametersOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length), end = data.indexOf(0);
    if (kind === "IDAT" || kind === "IEND") break;
    if (new TextDecoder("latin1").decode(data.subarray(0, Math.max(end, 0))) === "parameters") {
      if (kind === "tEXt") return new TextDecoder("latin1").decode(data.subarray(end + 1));
      if (kind === "iTXt" && data[end + 1] === 0) { // not compressed; language and translated keyword end with a 0 each
        const language = data.indexOf(0, end + 3), keyword = data.indexOf(0, language + 1);
        return new TextDecoder().decode(data.subarray(keyword + 1));
      }
    }
    at += 12 + length;
  }
  return null;
}
