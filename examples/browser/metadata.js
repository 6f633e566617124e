// What an ONNX file says of itself. ONNX Runtime Web does not give the metadata, so this reads them from the file's
// protobuf: ModelProto.metadata_props is field 14, each entry a message of key (1) and value (2).

export function readMetadata(bytes) {
  const found = {};
  for (const { field, content } of fields(bytes)) {
    if (field !== 14) continue;
    const entry = {};
    for (const part of fields(content)) entry[part.field] = new TextDecoder().decode(part.content);
    found[entry[1]] = entry[2] ?? "";
  }
  return found;
}

function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= bytes.length) throw new Error("the file is cut short");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const field = Math.floor(tag / 8), wire = tag % 8;
    if (wire === 0) varint();
    else if (wire === 1) at += 8;
    else if (wire === 5) at += 4;
    else if (wire === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new Error("the file is cut short");
      yield { field, content: bytes.subarray(at, at + length) };
      at += length;
    } else throw new Error("this is no ONNX file");
  }
}
