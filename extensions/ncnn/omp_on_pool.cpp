#include "omp_on_pool.h"

#include <utility>

namespace {

struct Team {
    int me = 0, all = 1;
};
thread_local Team team;
thread_local mpsplit::ThreadPool* pool_here = nullptr;

}  // namespace

namespace mpsplit {

OmpOnPool::OmpOnPool(ThreadPool& pool) { pool_here = &pool; }
OmpOnPool::~OmpOnPool() { pool_here = nullptr; }

}  // namespace mpsplit

// The whole of what ncnn asks of OpenMP. Names and types are GCC's.
extern "C" {

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
    mpsplit::ThreadPool* pool = std::exchange(pool_here, nullptr);  // within a loop: nobody else
    auto run = [&](int part, int) {
        const Team outer = std::exchange(team, {part, pool ? int(threads) : 1});
        body(data);
        team = outer;
    };
    if (pool)
        pool->parallel(int(threads), run);
    else
        run(0, 0);
    pool_here = pool;
}

int omp_get_thread_num() { return team.me; }
int omp_get_num_threads() { return team.all; }
int omp_get_dynamic() { return 0; }
void omp_set_dynamic(int) {}
void omp_set_num_threads(int) {}
}
