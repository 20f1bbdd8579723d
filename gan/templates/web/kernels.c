/* The arithmetic of the page that draws faces, in WebAssembly with 128-bit SIMD.
 *
 * Built by `make web-kernels`; tests/test_web.py holds kernels.wasm to the digest of this file.
 * Pictures are [channels, height, width] in float32, row after row. The page's script lays all
 * buffers out in one memory and passes their addresses; nothing is allocated here.
 */
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define COLUMNS 8 /* of a panel: two vectors */

/* C[m, 8] = A[m, k] * P[k, 8] + bias, columns `from` to `from + count - 1` of rows of `stride`. */
static void multiply_panel(int m, int k, const float *A, const float *P, const float *bias,
                           float *C, int stride, int count) {
  float spare[4 * COLUMNS];
  for (int i = 0; i < m; i += 4) {
    int rows = m - i < 4 ? m - i : 4;
    const float *a[4];
    v128_t sum[4][2];
    for (int r = 0; r < 4; r++) {
      int row = i + (r < rows ? r : 0);
      a[r] = A + (long)row * k;
      sum[r][0] = sum[r][1] = wasm_f32x4_splat(bias ? bias[row] : 0.0f);
    }
    for (int j = 0; j < k; j++) {
      v128_t p = wasm_v128_load(P + COLUMNS * j), q = wasm_v128_load(P + COLUMNS * j + 4);
#pragma unroll
      for (int r = 0; r < 4; r++) {
        v128_t x = wasm_v128_load32_splat(a[r] + j);
        sum[r][0] = wasm_f32x4_add(sum[r][0], wasm_f32x4_mul(x, p));
        sum[r][1] = wasm_f32x4_add(sum[r][1], wasm_f32x4_mul(x, q));
      }
    }
    for (int r = 0; r < rows; r++) {
      float *to = C + (long)(i + r) * stride, *full = count < COLUMNS ? spare : to;
      wasm_v128_store(full, sum[r][0]);
      wasm_v128_store(full + 4, sum[r][1]);
      for (int c = 0; full == spare && c < count; c++) to[c] = spare[c];
    }
  }
}

/* y[m] = A[m, k] x[k] + bias[m]. */
EXPORT("linear")
void linear(int m, int k, const float *A, const float *x, const float *bias, float *y) {
  for (int i = 0; i < m; i++) {
    const float *a = A + (long)i * k;
    v128_t sum = wasm_f32x4_splat(0.0f);
    int j = 0;
    for (; j + 4 <= k; j += 4)
      sum = wasm_f32x4_add(sum, wasm_f32x4_mul(wasm_v128_load(a + j), wasm_v128_load(x + j)));
    float total = wasm_f32x4_extract_lane(sum, 0) + wasm_f32x4_extract_lane(sum, 1) +
                  wasm_f32x4_extract_lane(sum, 2) + wasm_f32x4_extract_lane(sum, 3);
    for (; j < k; j++) total += a[j] * x[j];
    y[i] = total + (bias ? bias[i] : 0.0f);
  }
}

/* C[m, n] = A[m, k] * B[k, n]; `panel` has room for 8 k numbers. */
EXPORT("multiply")
void multiply(int m, int n, int k, const float *A, const float *B, float *C, float *panel) {
  for (int from = 0; from < n; from += COLUMNS) {
    int count = n - from < COLUMNS ? n - from : COLUMNS;
    for (int j = 0; j < k; j++)
      for (int c = 0; c < COLUMNS; c++)
        panel[COLUMNS * j + c] = c < count ? B[(long)j * n + from + c] : 0.0f;
    multiply_panel(m, k, A, panel, 0, C + from, n, count);
  }
}

/* Convolution of x [c_in, h, w], which is padded already, with A [c_out, c_in * side * side]. */
EXPORT("convolve")
void convolve(int c_in, int h, int w, int c_out, int side, int step, int out_h, int out_w,
              const float *A, const float *bias, const float *x, float *y, float *panel) {
  int n = out_h * out_w, k = c_in * side * side;
  for (int from = 0; from < n; from += COLUMNS) {
    int count = n - from < COLUMNS ? n - from : COLUMNS;
    int whole = step == 1 && count == COLUMNS && from % out_w + COLUMNS <= out_w;
    long at[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
      int pixel = from + (c < count ? c : 0);
      at[c] = (long)(pixel / out_w * step) * w + pixel % out_w * step;
    }
    float *to = panel;
    for (int channel = 0; channel < c_in; channel++)
      for (int dy = 0; dy < side; dy++)
        for (int dx = 0; dx < side; dx++, to += COLUMNS) {
          const float *row = x + ((long)channel * h + dy) * w + dx;
          if (whole) {
            wasm_v128_store(to, wasm_v128_load(row + at[0]));
            wasm_v128_store(to + 4, wasm_v128_load(row + at[0] + 4));
          } else
            for (int c = 0; c < COLUMNS; c++) to[c] = row[at[c]];
        }
    multiply_panel(c_out, k, A, panel, bias, y + from, n, count);
  }
}

/* x [c, h, w] in a frame of `pad` zeros: y [c, h + 2 pad, w + 2 pad]. */
EXPORT("frame")
void frame(int c, int h, int w, int pad, const float *x, float *y) {
  int wide = w + 2 * pad, high = h + 2 * pad;
  for (int channel = 0; channel < c; channel++)
    for (int i = 0; i < high; i++)
      for (int j = 0; j < wide; j++, y++) {
        int inside = i >= pad && i < h + pad && j >= pad && j < w + pad;
        *y = inside ? x[((long)channel * h + i - pad) * w + j - pad] : 0.0f;
      }
}

/* Add each of the columns [c_out * side * side, h * w] where a transposed convolution puts it. */
EXPORT("scatter")
void scatter(int c_out, int h, int w, int side, int step, int pad, int out_h, int out_w,
             const float *columns, const float *bias, float *y) {
  for (int channel = 0; channel < c_out; channel++) {
    float *to = y + (long)channel * out_h * out_w;
    for (int i = 0; i < out_h * out_w; i++) to[i] = bias ? bias[channel] : 0.0f;
    for (int dy = 0; dy < side; dy++)
      for (int dx = 0; dx < side; dx++, columns += h * w)
        for (int i = 0; i < h; i++) {
          int row = i * step + dy - pad;
          if (row < 0 || row >= out_h) continue;
          for (int j = 0; j < w; j++) {
            int column = j * step + dx - pad;
            if (column >= 0 && column < out_w) to[row * out_w + column] += columns[i * w + j];
          }
        }
  }
}

/* Leaky ReLU in place; a slope of 0 is ReLU. */
EXPORT("leaky")
void leaky(int n, float slope, float *x) {
  for (int i = 0; i < n; i++) x[i] = x[i] > 0.0f ? x[i] : slope * x[i];
}

/* x += y. */
EXPORT("add")
void add(int n, float *x, const float *y) {
  for (int i = 0; i < n; i++) x[i] += y[i];
}

/* scale[c] x + shift[c], in place, of c channels of n numbers. */
EXPORT("affine")
void affine(int channels, int n, const float *scale, const float *shift, float *x) {
  for (int channel = 0; channel < channels; channel++)
    for (int i = 0; i < n; i++, x++) *x = scale[channel] * *x + shift[channel];
}
