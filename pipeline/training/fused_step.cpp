// The parts of a training step on a CPU; fused_step.py calls them.
//
// Products take bfloat16 and give float32 (PyTorch's own brgemm: AMX or AVX-512); weights, moments and all sums are
// float32, the loss's sums float64. What makes it fast: the gradient of a few rows of a weight is made and spent while
// it is in the cache, and Adam writes the bfloat16 copy of the weights on its way. Work is cut the same way for any
// number of threads, so the bits do not depend on it.

#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>

constexpr int64_t ROWS = 16;  // of a weight, and of a batch, that one piece of work takes

struct Side {
  int64_t dim, inputs, batch;        // inputs even, dim a multiple of ROWS
  int64_t relu, threads;
  float epsilon;
  uint16_t *across, *down;           // the batch, bfloat16: (inputs / 2, batch, 2) and ((batch + 1) / 2, inputs, 2)
  float *weight, *first, *second;    // (dim, inputs), and Adam's moments
  uint16_t* copy;                    // of the weight, bfloat16
  float *bias, *bias_first, *bias_second;
  float *outputs, *unit, *length;    // (dim, batch), (batch, dim), (batch)
  uint16_t* slopes;                  // bfloat16 (dim, batch, an odd one filled up with a zero)
  float* gradient;                   // (threads, ROWS, inputs)
};

struct Adam {
  float rate, root, decay, epsilon;  // lr / (1 - b1^t), 1 / sqrt(1 - b2^t), weight decay
};

// C (rows, columns) float32 = A (rows, depth) x B (depth / 2, columns, 2); false where this CPU or build cannot
static bool multiply(int64_t rows, int64_t columns, int64_t depth, const uint16_t* a, const uint16_t* b, float* c) noexcept {
  try {
    auto *left = reinterpret_cast<const at::BFloat16*>(a), *right = reinterpret_cast<const at::BFloat16*>(b);
    at::native::cpublas::brgemm(rows, columns, depth, depth, columns, columns, false, left, right, c);
    return true;
  } catch (...) {
    return false;
  }
}

static inline uint16_t rounded(float value) {  // to bfloat16, the nearest, ties to even; infinity and NaN stay so
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The batch (batch, inputs) as both products take it: pairs of columns, and pairs of rows
extern "C" int pack(const Side* s, const float* vectors) {
  const int64_t batch = s->batch, inputs = s->inputs, pairs = inputs / 2;
  auto *across = reinterpret_cast<uint32_t*>(s->across), *down = reinterpret_cast<uint32_t*>(s->down);
#pragma omp parallel for num_threads(s->threads)
  for (int64_t start = 0; start < batch; start += ROWS) {
    const int64_t rows = std::min(ROWS, batch - start);
    std::vector<uint16_t> block((ROWS + 1) * inputs);  // zero after the last row
    for (int64_t k = 0; k < rows * inputs; k++) block[k] = rounded(vectors[start * inputs + k]);
    for (int64_t k = 0; k < pairs; k++)
      for (int64_t i = 0; i < rows; i++)
        across[k * batch + start + i] = block[i * inputs + 2 * k] | uint32_t(block[i * inputs + 2 * k + 1]) << 16;
    for (int64_t i = 0; i < rows; i += 2)
      for (int64_t k = 0; k < inputs; k++)
        down[(start + i) / 2 * inputs + k] = block[i * inputs + k] | uint32_t(block[(i + 1) * inputs + k]) << 16;
  }
  return true;
}

// Unit vectors of the batch and the lengths that were divided out
extern "C" int project(const Side* s) {
  const int64_t batch = s->batch, dim = s->dim, inputs = s->inputs;
  std::atomic<bool> able{true};
#pragma omp parallel num_threads(s->threads)
  {
#pragma omp for
    for (int64_t u = 0; u < dim; u += ROWS) {
      float* out = s->outputs + u * batch;
      if (!multiply(ROWS, batch, inputs, s->copy + u * inputs, s->across, out)) able = false;
      for (int64_t i = 0; i < ROWS; i++)
        for (int64_t b = 0; b < batch; b++) {
          const float value = out[i * batch + b] + s->bias[u + i];
          out[i * batch + b] = s->relu ? std::max(value, 0.f) : value;
        }
    }
#pragma omp for
    for (int64_t start = 0; start < batch; start += ROWS) {
      const int64_t stop = std::min(start + ROWS, batch);
      const float* out = s->outputs;
      float squares[ROWS] = {}, inverse[ROWS];
      for (int64_t u = 0; u < dim; u++)
        for (int64_t b = start; b < stop; b++) squares[b - start] += out[u * batch + b] * out[u * batch + b];
      for (int64_t b = start; b < stop; b++) {
        s->length[b] = std::max(std::sqrt(squares[b - start]), s->epsilon);
        inverse[b - start] = 1 / s->length[b];
      }
      for (int64_t u = 0; u < dim; u++)
        for (int64_t b = start; b < stop; b++) s->unit[b * dim + u] = out[u * batch + b] * inverse[b - start];
    }
    at::native::cpublas::brgemm_release();
  }
  return able;
}

static inline void adam(float* p, float* first, float* second, uint16_t* copy, const float* g, int64_t n, const Adam& a) {
#pragma omp simd
  for (int64_t k = 0; k < n; k++) {
    const float gradient = g[k] + a.decay * p[k];
    const float mean = first[k] + (gradient - first[k]) * 0.1f;
    const float square = second[k] * 0.999f + gradient * gradient * 0.001f;
    p[k] -= a.rate * mean / (std::sqrt(square) * a.root + a.epsilon);
    first[k] = mean;
    second[k] = square;
  }
  if (copy)
    for (int64_t k = 0; k < n; k++) copy[k] = rounded(p[k]);
}

// From the gradient (batch, dim) of the vectors before normalisation to the next weights
extern "C" int descend(const Side* s, const float* slope, const Adam* a) {
  const int64_t batch = s->batch, dim = s->dim, inputs = s->inputs, filled = (batch + 1) / 2 * 2;
  std::atomic<bool> able{true};
#pragma omp parallel num_threads(s->threads)
  {
    float* gradient = s->gradient + omp_get_thread_num() * ROWS * inputs;
#pragma omp for
    for (int64_t u = 0; u < dim; u += ROWS) {
      float of_bias[ROWS] = {};
      uint16_t* slopes = s->slopes + u * filled;
      for (int64_t b = 0; b < batch; b++) {
        const int64_t place = b * dim + u;
        for (int64_t i = 0; i < ROWS; i++) {
          const float value = s->relu && s->unit[place + i] == 0 ? 0.f : slope[place + i];
          of_bias[i] += value;
          slopes[i * filled + b] = rounded(value);
        }
      }
      if (!multiply(ROWS, inputs, filled, slopes, s->down, gradient)) able = false;
      const int64_t at = u * inputs;
      adam(s->weight + at, s->first + at, s->second + at, s->copy + at, gradient, ROWS * inputs, *a);
      adam(s->bias + u, s->bias_first + u, s->bias_second + u, nullptr, of_bias, ROWS, *a);
    }
    at::native::cpublas::brgemm_release();
  }
  return able;
}

extern "C" void descend_scale(float* scale, float* first, float* second, const float* slope, const Adam* a) {
  adam(scale, first, second, nullptr, slope, 1, *a);
}

enum Denominator : int64_t { AT_LEAST, BEYOND, BEYOND_AND_SELF };  // in the order of _DENOMINATORS of fused_step.py

struct Order {
  const int64_t *candidates, *since, *until;  // (batch, batch), RankOrder of label_order.py
  int64_t denominator;
  double weight;  // of a pair
};

// One row of Rank-N-Contrast, as _sorted_block of rank_n_contrast.py: its loss, and logits -> their gradient
static double rank_row(float* logits, const Order& order, int64_t row, int64_t size, double* power, double* running,
                       double* total, double* nearer) {
  const int64_t *candidates = order.candidates + row * size, *since = order.since + row * size;
  const int64_t* until = order.until + row * size;
  const auto [low, high] = std::minmax_element(logits, logits + size);
  const double middle = *low / 2.0 + *high / 2.0;
  double shifted = 0, logs = 0, sum = 0;
  for (int64_t p = 0; p < size; p++) {  // from the farthest
    const double score = logits[candidates[p]] - middle;
    shifted += score;
    power[p] = std::exp(score);
    running[p] = sum += power[p];
  }
  sum = 0;
  for (int64_t q = 0; q < size; q++) {  // the q-th nearest
    const int64_t p = size - 1 - q, first = size - 1 - since[p];
    if (order.denominator == AT_LEAST)
      total[p] = running[until[q]];
    else  // a dropped pair of `beyond` gets itself as its set, and no slope
      total[p] = (first ? running[first - 1] : 0) + (order.denominator == BEYOND && first ? 0 : power[p]);
    logs += std::log(total[p]);
    nearer[q] = sum += order.weight / total[p];
  }
  for (int64_t p = 0; p < size; p++) {
    double slope;
    if (order.denominator == AT_LEAST) {
      slope = nearer[since[p]] * power[p];
    } else {
      const int64_t after = size - 1 - until[size - 1 - p];  // how many are nearer than its ties
      const bool own = order.denominator == BEYOND_AND_SELF || since[p] == size - 1;
      slope = (after ? nearer[after - 1] : 0) * power[p] + (own ? power[p] * order.weight / total[p] : 0);
    }
    logits[candidates[p]] = float(slope - order.weight);
  }
  return (logs - shifted) * order.weight;
}

// slope (rows, dim) = gradient (rows, batch) x others (batch, dim), then before the normalisation of unit / length
static void slopes_of(int64_t rows, int64_t batch, int64_t dim, const float* gradient, const float* others,
                      const float* unit, const float* length, float* slope) {
  at::native::cpublas::brgemm(rows, dim, batch, batch, dim, dim, false, gradient, others, slope);
  for (int64_t b = 0; b < rows; b++) {
    float *row = slope + b * dim, along = 0;
    const float* direction = unit + b * dim;
#pragma omp simd reduction(+ : along)
    for (int64_t u = 0; u < dim; u++) along += row[u] * direction[u];
    const float inverse = 1 / length[b];
    for (int64_t u = 0; u < dim; u++) row[u] = (row[u] - along * direction[u]) * inverse;
  }
}

struct Slopes {
  double *losses, *scales;     // (batch), to be summed: the losses and their slopes of log_scale
  float *speech, *text;        // (batch, dim)
  float *gradient, *mirrored;  // (batch, batch), of the logits, and its rows and columns exchanged
};

extern "C" int rank_n_contrast(const Side* speech, const Side* text, const float* log_scale, const Order* order,
                               const Slopes* out) {
  const int64_t batch = speech->batch, dim = speech->dim;
  const float scale = std::exp(*log_scale);
#pragma omp parallel num_threads(speech->threads)
  {
    std::vector<double> room(4 * batch);
    std::vector<float> logits(batch);
#pragma omp for
    for (int64_t first = 0; first < batch; first += ROWS) {
      const int64_t rows = std::min(ROWS, batch - first);
      const float* others = text->outputs;
      float* gradient = out->gradient + first * batch;
      at::native::cpublas::brgemm(rows, batch, dim, dim, batch, batch, false, speech->unit + first * dim, others, gradient);
      for (int64_t i = first; i < first + rows; i++, gradient += batch) {
        for (int64_t j = 0; j < batch; j++) logits[j] = gradient[j] *= scale / text->length[j];
        double* of_row = room.data();
        out->losses[i] = rank_row(gradient, *order, i, batch, of_row, of_row + batch, of_row + 2 * batch, of_row + 3 * batch);
        double of_scale = 0;
        for (int64_t j = 0; j < batch; j++) {
          of_scale += double(gradient[j]) * logits[j];
          out->mirrored[j * batch + i] = gradient[j] *= scale;
        }
        out->scales[i] = of_scale;
      }
    }
#pragma omp for
    for (int64_t b = 0; b < batch; b += ROWS) {
      const int64_t rows = std::min(ROWS, batch - b), at = b * dim;
      const float *gradient = out->gradient + b * batch, *mirrored = out->mirrored + b * batch;
      slopes_of(rows, batch, dim, gradient, text->unit, speech->unit + at, speech->length + b, out->speech + at);
      slopes_of(rows, batch, dim, mirrored, speech->unit, text->unit + at, text->length + b, out->text + at);
    }
    at::native::cpublas::brgemm_release(false);
  }
  return true;
}
