// What Python calls, through ctypes: pointers to contiguous memory, and numbers.
#include <algorithm>
#include <cstdlib>

#include "product.h"

namespace {

constexpr int64_t BYTES_AT_ONCE = 1 << 19;  // of weights that a thread takes: little enough that threads end together

// Memory of the calling thread, kept from call to call.
struct Scratch {
    void* memory = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(memory); }
    char* reserve(size_t bytes) {
        if (bytes > size) {
            std::free(memory);
            size = (bytes + 4095) / 4096 * 4096;
            memory = std::aligned_alloc(64, size);
        }
        return static_cast<char*>(memory);
    }
};

thread_local Scratch scratch;

const Kernels& kernels(int level) {
#if defined(__x86_64__)
    if (level == 2) return avx512_kernels;
    if (level == 1) return avx2_kernels;
#endif
    (void)level;
    return portable_kernels;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The best of the instruction sets that this processor has: 0 any, 1 AVX2, 2 AVX-512 with bfloat16 and VNNI.
EXPORT int lavatube_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bf16"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// output = input · weightsᵀ + bias; `Product` says what is what. Returns 0, or 1 if there is no memory.
EXPORT int lavatube_product(int level, int threads, int kind, const void* weights, const void* scales, const void* bias,
                            const void* input, void* output, int64_t rows, int64_t inputs, int64_t outputs, int64_t steps,
                            int64_t group_steps, int is_input_bfloat16, int is_output_bfloat16) {
    const Kernels& chosen = kernels(level);
    Product p{static_cast<Kind>(kind), static_cast<const uint8_t*>(weights), static_cast<const uint16_t*>(scales),
              bias, input, output, rows, inputs, outputs, steps, group_steps, is_input_bfloat16 != 0,
              is_output_bfloat16 != 0, nullptr, nullptr, nullptr};
    const int64_t num_words = rows * steps, num_scales = p.kind == Kind::bfloat16 ? 0 : rows * p.groups();
    char* memory = scratch.reserve(4 * (num_words + 2 * num_scales) + 64);
    if (!memory) return 1;
    p.words = reinterpret_cast<uint32_t*>(memory);
    p.input_scales = reinterpret_cast<float*>(p.words + num_words);
    p.offsets = reinterpret_cast<int32_t*>(p.input_scales + num_scales);

    const int64_t blocks = (rows + chosen.block_rows - 1) / chosen.block_rows, panels = p.panels();
    const int64_t share = std::clamp<int64_t>(BYTES_AT_ONCE / p.panel_bytes(), 1, (panels + threads - 1) / threads);
    const int64_t at_once = (share + 1) / 2 * 2;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) chosen.pack(p, block);
#pragma omp for schedule(dynamic, 1)
        for (int64_t panel = 0; panel < panels; panel += at_once)
            chosen.multiply(p, panel, std::min(panel + at_once, panels));
    }
    return 0;
}
