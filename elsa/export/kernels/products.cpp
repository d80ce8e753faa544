// y = x Wᵀ of a sparse matrix in two forms (elsa/export/forms.py):
//
//   bits    a bit an entry. A chunk is 32 columns: its bits say where the next values go, which AVX-512 VBMI2 puts there
//           in one instruction.
//   csr16   16 bits a value for its column, by which x is gathered.
//
// Values are float or bfloat16 in row order, and kChunk more follow that may be read and are not used. Processors without
// these instructions visit the values one by one.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VBMI2__)
#include <immintrin.h>
#define ELSA_AVX512 1
#endif

namespace {

constexpr int64_t kChunk = 32;    // columns
constexpr int64_t kTokens = 4;    // that share one pass over a row
constexpr int64_t kAhead = 4096;  // bytes: values come once from memory, and processors look no page ahead

struct alignas(64) Chunk {
  float values[kChunk] = {};
};

#ifdef ELSA_AVX512

// The values of a chunk in their places, in two halves.
inline void placed(const float* values, uint32_t mask, __m512& first, __m512& second) {
  const __mmask16 low = mask & 0xffff, high = mask >> 16;
  first = _mm512_maskz_expand_ps(low, _mm512_loadu_ps(values));
  second = _mm512_maskz_expand_ps(high, _mm512_loadu_ps(values + __builtin_popcount(low)));
}

// A bfloat16 is the upper half of a float, so that the halves are the even and the odd columns.
inline void placed(const at::BFloat16* values, uint32_t mask, __m512& first, __m512& second) {
  const __m512i all = _mm512_maskz_expand_epi16(mask, _mm512_loadu_si512(values));
  first = _mm512_castsi512_ps(_mm512_slli_epi32(all, 16));
  second = _mm512_castsi512_ps(_mm512_and_si512(all, _mm512_set1_epi32(0xffff0000)));
}

// Where column `c` of a chunk stands in x as it is arranged for `placed`.
inline int64_t place(const float*, int64_t c) { return c; }
inline int64_t place(const at::BFloat16*, int64_t c) { return c / 2 + c % 2 * (kChunk / 2); }

template <typename T, int64_t tokens>
inline void add(const T*& values, uint32_t bits, const Chunk* x, int64_t chunks, __m512 (&sum)[tokens][2]) {
  __m512 first, second;
  placed(values, bits, first, second);
  values += __builtin_popcount(bits);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* its = x[t * chunks].values;
    sum[t][0] = _mm512_fmadd_ps(first, _mm512_load_ps(its), sum[t][0]);
    sum[t][1] = _mm512_fmadd_ps(second, _mm512_load_ps(its + kChunk / 2), sum[t][1]);
  }
}

template <typename T, int64_t tokens>
void bits_row(const T* values, const uint32_t* mask, int64_t chunks, const Chunk* x, float* y) {
  __m512 even[tokens][2], odd[tokens][2];  // sums of chunks that need not wait for each other
  for (int64_t t = 0; t < tokens; ++t) even[t][0] = even[t][1] = odd[t][0] = odd[t][1] = _mm512_setzero_ps();
  int64_t c = 0;
  for (; c + 2 <= chunks; c += 2) {
    _mm_prefetch(reinterpret_cast<const char*>(values) + kAhead, _MM_HINT_T0);
    add<T, tokens>(values, mask[c], x + c, chunks, even);
    add<T, tokens>(values, mask[c + 1], x + c + 1, chunks, odd);
  }
  if (c < chunks) add<T, tokens>(values, mask[c], x + c, chunks, even);
  for (int64_t t = 0; t < tokens; ++t) {
    const __m512 both = _mm512_add_ps(_mm512_add_ps(even[t][0], odd[t][0]), _mm512_add_ps(even[t][1], odd[t][1]));
    y[t] = _mm512_reduce_add_ps(both);
  }
}

inline __m512 widened(const float* values, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, values); }
inline __m512 widened(const at::BFloat16* values, __mmask16 mask) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, values));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

template <typename T, int64_t tokens>
void csr16_row(const T* values, const uint16_t* columns, int64_t count, const float* x, int64_t inputs, float* y) {
  __m512 sum[tokens];
  for (int64_t t = 0; t < tokens; ++t) sum[t] = _mm512_setzero_ps();
  for (int64_t n = 0; n < count; n += 16) {
    const __mmask16 mask = count - n >= 16 ? 0xffff : (1u << (count - n)) - 1;
    const __m512i places = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, columns + n));
    const __m512 its = widened(values + n, mask);
    _mm_prefetch(reinterpret_cast<const char*>(values + n) + kAhead, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(columns + n) + kAhead, _MM_HINT_T0);
    for (int64_t t = 0; t < tokens; ++t)
      sum[t] = _mm512_fmadd_ps(its, _mm512_i32gather_ps(places, x + t * inputs, sizeof(float)), sum[t]);
  }
  for (int64_t t = 0; t < tokens; ++t) y[t] = _mm512_reduce_add_ps(sum[t]);
}

#else

template <typename T>
inline int64_t place(const T*, int64_t c) {
  return c;
}

template <typename T, int64_t tokens>
void bits_row(const T* values, const uint32_t* mask, int64_t chunks, const Chunk* x, float* y) {
  std::fill(y, y + tokens, 0.0f);
  for (int64_t c = 0; c < chunks; ++c) {
    for (uint32_t bits = mask[c]; bits; bits &= bits - 1) {
      const float value = static_cast<float>(*values++);
      for (int64_t t = 0; t < tokens; ++t) y[t] += value * x[t * chunks + c].values[__builtin_ctz(bits)];
    }
  }
}

template <typename T, int64_t tokens>
void csr16_row(const T* values, const uint16_t* columns, int64_t count, const float* x, int64_t inputs, float* y) {
  std::fill(y, y + tokens, 0.0f);
  for (int64_t n = 0; n < count; ++n)
    for (int64_t t = 0; t < tokens; ++t) y[t] += static_cast<float>(values[n]) * x[t * inputs + columns[n]];
}

#endif

// Calls several(o, t, sums) for kTokens tokens from t on, one(o, t, sums) for the last ones, and writes y.
template <typename X, typename Several, typename One>
void all_rows(at::Tensor& y, const Several& several, const One& one) {
  const int64_t tokens = y.size(0), outputs = y.size(1);
  auto* out = y.mutable_data_ptr<X>();
  at::parallel_for(0, outputs, 64, [&](int64_t begin, int64_t end) {
    float sums[kTokens];
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t t = 0; t < tokens;) {
        const int64_t count = tokens - t >= kTokens ? kTokens : 1;
        count == kTokens ? several(o, t, sums) : one(o, t, sums);
        for (int64_t k = 0; k < count; ++k) out[(t + k) * outputs + o] = static_cast<X>(sums[k]);
        t += count;
      }
    }
  });
}

template <typename T, typename X>
void bits_rows(const at::Tensor& bits, const at::Tensor& rows, const at::Tensor& values, const at::Tensor& x, at::Tensor& y) {
  const int64_t chunks = bits.size(1), tokens = x.size(0), inputs = x.size(1);
  const auto* mask = reinterpret_cast<const uint32_t*>(bits.const_data_ptr<int32_t>());
  const auto* starts = rows.const_data_ptr<int32_t>();
  const auto* all = values.const_data_ptr<T>();
  const auto* given = x.const_data_ptr<X>();
  std::vector<Chunk> arranged(tokens * chunks);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < inputs; ++i)
      arranged[t * chunks + i / kChunk].values[place(all, i % kChunk)] = static_cast<float>(given[t * inputs + i]);
  const auto row = [&](auto function, int64_t o, int64_t t, float* sums) {
    function(all + starts[o], mask + o * chunks, chunks, &arranged[t * chunks], sums);
  };
  all_rows<X>(
      y, [&](int64_t o, int64_t t, float* sums) { row(bits_row<T, kTokens>, o, t, sums); },
      [&](int64_t o, int64_t t, float* sums) { row(bits_row<T, 1>, o, t, sums); });
}

template <typename T, typename X>
void csr16_rows(const at::Tensor& columns, const at::Tensor& rows, const at::Tensor& values, const at::Tensor& x, at::Tensor& y) {
  const int64_t inputs = x.size(1);
  const auto* places = reinterpret_cast<const uint16_t*>(columns.const_data_ptr<int16_t>());
  const auto* starts = rows.const_data_ptr<int32_t>();
  const auto* all = values.const_data_ptr<T>();
  const at::Tensor wide = x.to(at::kFloat);
  const auto* given = wide.const_data_ptr<float>();
  const auto row = [&](auto function, int64_t o, int64_t t, float* sums) {
    function(all + starts[o], places + starts[o], starts[o + 1] - starts[o], given + t * inputs, inputs, sums);
  };
  all_rows<X>(
      y, [&](int64_t o, int64_t t, float* sums) { row(csr16_row<T, kTokens>, o, t, sums); },
      [&](int64_t o, int64_t t, float* sums) { row(csr16_row<T, 1>, o, t, sums); });
}

template <typename X>
void any_rows(const at::Tensor& places, const at::Tensor& rows, const at::Tensor& values, const at::Tensor& x, at::Tensor& y) {
  const bool bits = places.dim() == 2, narrow = values.scalar_type() == at::kBFloat16;
  if (bits) {
    narrow ? bits_rows<at::BFloat16, X>(places, rows, values, x, y) : bits_rows<float, X>(places, rows, values, x, y);
  } else {
    narrow ? csr16_rows<at::BFloat16, X>(places, rows, values, x, y) : csr16_rows<float, X>(places, rows, values, x, y);
  }
}

// places: int32 [O, C] of 32 columns each, or int16 [N + 32] of unsigned columns; rows: int32 [O + 1], where the values of
// each row begin; values: [N + 32]; x: [T, I]. All contiguous, but for x.
at::Tensor product(const at::Tensor& places, const at::Tensor& rows, const at::Tensor& values, const at::Tensor& x) {
  at::Tensor y = at::empty({x.size(0), rows.size(0) - 1}, x.options());
  const at::Tensor given = x.contiguous();
  if (x.scalar_type() == at::kBFloat16) {
    any_rows<at::BFloat16>(places, rows, values, given, y);
  } else if (x.scalar_type() == at::kHalf) {
    any_rows<at::Half>(places, rows, values, given, y);
  } else {
    any_rows<float>(places, rows, values, given, y);
  }
  return y;
}

template <typename T>
void fill(const at::Tensor& places, const at::Tensor& rows, const at::Tensor& values, at::Tensor& weight) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1), chunks = places.dim() == 2 ? places.size(1) : 0;
  const auto* starts = rows.const_data_ptr<int32_t>();
  const auto* all = values.const_data_ptr<T>();
  auto* out = weight.mutable_data_ptr<T>();
  at::parallel_for(0, outputs, 64, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const T* its = all + starts[o];
      if (places.dim() == 2) {
        const auto* mask = reinterpret_cast<const uint32_t*>(places.const_data_ptr<int32_t>()) + o * chunks;
        for (int64_t c = 0; c < chunks; ++c)
          for (uint32_t bits = mask[c]; bits; bits &= bits - 1) out[o * inputs + c * kChunk + __builtin_ctz(bits)] = *its++;
      } else {
        const auto* columns = reinterpret_cast<const uint16_t*>(places.const_data_ptr<int16_t>()) + starts[o];
        for (int64_t n = 0; n < starts[o + 1] - starts[o]; ++n) out[o * inputs + columns[n]] = its[n];
      }
    }
  });
}

// The matrix [O, I] with its zeros, in the dtype of its values.
at::Tensor dense(const at::Tensor& places, const at::Tensor& rows, const at::Tensor& values, int64_t inputs) {
  at::Tensor weight = at::zeros({rows.size(0) - 1, inputs}, values.options());
  values.scalar_type() == at::kBFloat16 ? fill<at::BFloat16>(places, rows, values, weight)
                                        : fill<float>(places, rows, values, weight);
  return weight;
}

// Whether the kernels have the instructions that make them fast.
bool is_wide() {
#ifdef ELSA_AVX512
  return true;
#else
  return false;
#endif
}

}  // namespace

TORCH_LIBRARY(elsa_cpu, library) {
  library.def("product(Tensor places, Tensor rows, Tensor values, Tensor x) -> Tensor");
  library.def("dense(Tensor places, Tensor rows, Tensor values, int inputs) -> Tensor");
  library.def("is_wide() -> bool", &is_wide);
}

TORCH_LIBRARY_IMPL(elsa_cpu, CPU, library) {
  library.impl("product", &product);
  library.impl("dense", &dense);
}
