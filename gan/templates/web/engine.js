"use strict";
/* A generator, run by the kernels of kernels.c. `program` is written by gan/web.py:
 * {inputs, values: [numbers in each], ops: [{op, x, y, ...}], scratch, panel, shape: [C, H, W]};
 * x and y are indices of values, a and b offsets into the weights. */

const FLOAT = 4, PAGE = 65536;

/** Half-precision numbers, as Uint16Array, in single precision. */
function fromHalf(halves) {
  const found = new Float32Array(halves.length);
  const bits = new Uint32Array(found.buffer);
  const least = 2 ** -24;  // of the numbers without a leading one
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i], magnitude = half & 0x7fff, sign = (half & 0x8000) << 16;
    if (magnitude >= 0x400) bits[i] = sign | ((magnitude << 13) + (112 << 23));
    else found[i] = (sign ? -1 : 1) * magnitude * least;
  }
  return found;
}

class Generator {
  /** `kernels` are the bytes of kernels.wasm, `weights` a Float32Array. */
  constructor(program, weights, kernels) {
    this.program = program;
    const base = 2 * PAGE;  // below it are the stack and constants of the kernels
    const sizes = [weights.length, program.scratch, program.panel, ...program.values];
    let end = base;
    const places = sizes.map((size) => {
      const place = end;
      end += Math.ceil(size * FLOAT / 16) * 16 + 64;
      return place;
    });
    [this.weights, this.scratch, this.panel, ...this.values] = places;
    this.memory = new WebAssembly.Memory({initial: Math.ceil(end / PAGE)});
    const module = new WebAssembly.Module(kernels);
    this.run = new WebAssembly.Instance(module, {env: {memory: this.memory}}).exports;
    this.floats = new Float32Array(this.memory.buffer);
    this.floats.set(weights, this.weights / FLOAT);
  }

  at(offset) {  // of the weights; -1: none
    return offset < 0 ? 0 : this.weights + offset * FLOAT;
  }

  /** Noise and classes, Float32Array -> pixels, Uint8ClampedArray of width * height * RGBA. */
  draw(input) {
    const {program, run, floats} = this;
    floats.set(input, this.values[0] / FLOAT);
    for (const op of program.ops) STEPS[op.op](this, op, this.values[op.x], this.values[op.y]);
    const [channels, height, width] = program.shape, n = height * width;
    const from = this.values[program.output] / FLOAT;
    const pixels = new Uint8ClampedArray(4 * n);  // rounds and clamps what it is given
    for (let i = 0; i < n; i++) {
      for (let c = 0; c < 3; c++) {
        pixels[4 * i + c] = (floats[from + (channels > 1 ? c * n : 0) + i] + 1) * 127.5;
      }
      pixels[4 * i + 3] = 255;
    }
    return pixels;
  }
}

function copied(g, op, x, y) {
  const n = g.program.values[op.y];
  g.floats.copyWithin(y / FLOAT, x / FLOAT, x / FLOAT + n);
  return n;
}

const STEPS = {
  linear(g, op, x, y) {
    g.run.linear(op.m, op.k, g.at(op.a), x, g.at(op.b), y);
  },
  convolve(g, op, x, y) {
    const {c, h, w, pad} = op;
    if (pad) g.run.frame(c, h, w, pad, x, g.scratch);
    g.run.convolve(c, h + 2 * pad, w + 2 * pad, op.m, op.side, op.step, op.outH, op.outW,
      g.at(op.a), g.at(op.b), pad ? g.scratch : x, y, g.panel);
  },
  transposed(g, op, x, y) {
    const {c, h, w, m, side, step, pad} = op;
    g.run.multiply(m * side * side, h * w, c, g.at(op.a), x, g.scratch, g.panel);
    g.run.scatter(m, h, w, side, step, pad, op.outH, op.outW, g.scratch, g.at(op.b), y);
  },
  leaky(g, op, x, y) {
    g.run.leaky(copied(g, op, x, y), op.slope, y);
  },
  tanh(g, op, x, y) {
    const n = g.program.values[op.y];
    for (let i = 0; i < n; i++) g.floats[y / FLOAT + i] = Math.tanh(g.floats[x / FLOAT + i]);
  },
  add(g, op, x, y) {
    g.run.add(copied(g, op, x, y), y, g.values[op.z]);
  },
  affine(g, op, x, y) {
    copied(g, op, x, y);
    g.run.affine(op.m, op.n, g.at(op.a), g.at(op.b), y);
  },
  /* x (1 + scale) + shift, of which z is [scale, shift]. The 1 is not in the weights, whose half
   * precision is coarse beside it. */
  modulate(g, op, x, y) {
    const n = copied(g, op, x, y), scale = g.values[op.z];
    g.run.affine(op.m, op.n, scale, scale + op.m * FLOAT, y);
    g.run.add(n, y, x);
  },
};
