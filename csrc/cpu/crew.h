// Threads of our own, for a process in which nobody lends any. One call has them at a time; they spin a while before they sleep,
// for the next call is often microseconds away.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#include <unistd.h>

namespace aquatint {

class Crew {
  public:
    using Job = void (*)(void* argument, int thread);

    // Never torn down: its threads may outlive what else is. A process that was forked off has none of them, nor locks to trust.
    static Crew& here() {
        static std::atomic<Crew*> hands{nullptr};
        Crew* found = hands;
        if (!found || found->process != getpid()) {
            Crew* own = new Crew;
            if (hands.compare_exchange_strong(found, own)) return *own;
            delete own;  // another thread was first
        }
        return *found;
    }

    // job(argument, i) for i below `threads`, 0 by the caller. Hands that are late or missing are not waited for, and where
    // another call has the crew there are none: a job is done when its first share returns.
    void run(Job job, void* argument, int threads) {
        std::unique_lock<std::mutex> turn(busy, std::try_to_lock);
        if (!turn.owns_lock()) return job(argument, 0);
        hire(threads - 1);
        current = job, given = argument, wanted = threads;
        open = true;
        {
            std::lock_guard<std::mutex> lock(guard);
            ++calls;
        }
        called.notify_all();
        job(argument, 0);
        open = false;
        for (int spins = 0; inside; ++spins) rest(spins);
    }

  private:
    static constexpr int kSpins = 1 << 12;

    static void rest(int spins) {
#if defined(__x86_64__)
        if (spins < kSpins) return __builtin_ia32_pause();
#endif
        std::this_thread::yield();
    }

    void hire(int count) {
        try {
            for (; hired < count; ++hired) std::thread(&Crew::work, this, hired + 1, calls.load()).detach();
        } catch (const std::system_error&) {  // no more than these, then
        }
    }

    // To be inside is said before it is asked whether the job is open, and the job is closed before it is asked who is inside:
    // whoever finds it open is waited for.
    void work(int thread, uint64_t seen) {
        for (;;) {
            for (int spins = 0; calls == seen && spins < kSpins; ++spins) rest(spins);
            if (calls == seen) {
                std::unique_lock<std::mutex> lock(guard);
                called.wait(lock, [&] { return calls != seen; });
            }
            seen = calls;
            ++inside;
            if (open && thread < wanted) current(given, thread);
            --inside;
        }
    }

    std::mutex busy, guard;
    std::condition_variable called;
    std::atomic<uint64_t> calls{0};
    std::atomic<bool> open{false};
    std::atomic<int> inside{0};
    Job current{};
    void* given{};
    int wanted = 0, hired = 0;
    const pid_t process = getpid();
};

}  // namespace aquatint
