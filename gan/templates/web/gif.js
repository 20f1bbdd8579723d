"use strict";
/* Pictures as an animated GIF (GIF89a) that repeats: 256 colours, found once for all frames. */

/** The mean colours of 256 boxes of equal weight (median cut, Heckbert 1982): [[r, g, b], ...]. */
function medianCut(frames, count = 256) {
  const colours = [];
  const every = Math.max(1, Math.floor(frames.length * frames[0].length / 4 / 40000));
  for (const frame of frames) {
    for (let i = 0; i < frame.length; i += 4 * every) {
      colours.push([frame[i], frame[i + 1], frame[i + 2]]);
    }
  }
  const spread = (box) => {
    let best = [0, -1];
    for (let c = 0; c < 3; c++) {
      let low = 255, high = 0;
      for (const colour of box) {
        low = Math.min(low, colour[c]);
        high = Math.max(high, colour[c]);
      }
      if (high - low > best[1]) best = [c, high - low];
    }
    return best;
  };
  const boxes = [{box: colours, wide: spread(colours)}];
  while (boxes.length < count) {
    let widest = 0;
    boxes.forEach(({box, wide}, i) => {
      const size = (x) => x.wide[1] * Math.sqrt(x.box.length);
      if (size(boxes[i]) > size(boxes[widest])) widest = i;
    });
    const {box, wide} = boxes[widest];
    if (wide[1] < 1) break;  // fewer colours than that
    box.sort((a, b) => a[wide[0]] - b[wide[0]]);
    let half = box.length >> 1;  // equal colours stay together
    while (half > 1 && box[half][wide[0]] === box[half - 1][wide[0]]) half--;
    if (half <= 1) half = Math.max(1, box.findIndex((x) => x[wide[0]] > box[0][wide[0]]));
    const parts = [box.slice(0, half), box.slice(half)];
    boxes.splice(widest, 1, ...parts.map((part) => ({box: part, wide: spread(part)})));
  }
  return boxes.map(({box}) => [0, 1, 2].map((c) =>
    Math.round(box.reduce((sum, colour) => sum + colour[c], 0) / box.length)));
}

/** The nearest colour of the palette for each pixel. */
function nearestColours(frame, palette, cache) {
  const found = new Uint8Array(frame.length / 4);
  for (let i = 0; i < found.length; i++) {
    const r = frame[4 * i], g = frame[4 * i + 1], b = frame[4 * i + 2];
    const key = (r >> 2) << 12 | (g >> 2) << 6 | b >> 2;
    if (cache[key] < 0) {
      let least = Infinity;
      palette.forEach(([x, y, z], entry) => {
        const off = (r - x) ** 2 + (g - y) ** 2 + (b - z) ** 2;
        if (off < least) [least, cache[key]] = [off, entry];
      });
    }
    found[i] = cache[key];
  }
  return found;
}

/** LZW of bytes with codes of 9 to 12 bits (Welch 1984), in blocks as GIF has them. */
function compress(pixels) {
  const bytes = [];
  let bits = 0, filled = 0, table = new Map(), width = 9, next = 258;
  const write = (code) => {
    bits |= code << filled;
    for (filled += width; filled >= 8; filled -= 8, bits >>>= 8) bytes.push(bits & 255);
  };
  write(256);  // clear the table
  let prefix = pixels[0];
  for (let i = 1; i < pixels.length; i++) {
    const key = prefix << 8 | pixels[i], known = table.get(key);
    if (known !== undefined) {
      prefix = known;
      continue;
    }
    write(prefix);
    if (next < 4096) {
      table.set(key, next);
      if (next === 1 << width) width++;
      next++;
    } else {
      write(256);
      [table, width, next] = [new Map(), 9, 258];
    }
    prefix = pixels[i];
  }
  write(prefix);
  write(257);  // the end
  if (filled) bytes.push(bits & 255);
  const blocks = [8];  // bits of a colour
  for (let i = 0; i < bytes.length; i += 255) {
    const part = bytes.slice(i, i + 255);
    blocks.push(part.length, ...part);
  }
  return [...blocks, 0];
}

/** `frames` of RGBA -> the file, as Uint8Array; `delay` in hundredths of a second. */
function encodeGif(frames, width, height, delay) {
  const palette = medianCut(frames), cache = new Int16Array(1 << 18).fill(-1);
  const word = (x) => [x & 255, x >> 8];
  const text = (x) => [...x].map((letter) => letter.charCodeAt(0));
  const parts = [[
    ...text("GIF89a"), ...word(width), ...word(height), 0xf7, 0, 0,
    ...Array.from({length: 256}, (_, i) => palette[i] || [0, 0, 0]).flat(),
    0x21, 0xff, 11, ...text("NETSCAPE2.0"), 3, 1, 0, 0, 0,  // without end
  ]];
  for (const frame of frames) {
    parts.push([
      0x21, 0xf9, 4, 0, ...word(delay), 0, 0,
      0x2c, 0, 0, 0, 0, ...word(width), ...word(height), 0,
    ], compress(nearestColours(frame, palette, cache)));
  }
  parts.push([0x3b]);
  const found = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    found.set(part, at);
    at += part.length;
  }
  return found;
}
