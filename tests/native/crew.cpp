// Threads of our own: every task is done once, by whoever, from several callers at a time. Built with ThreadSanitizer by
// tests/runtime/test_crew.py; with an argument a forked process does the same, without it.
#include <cstdio>
#include <thread>
#include <vector>

#include <sys/wait.h>

#include "cpu/crew.h"
#include "cpu/tasks.h"

using namespace aquatint;

namespace {

struct Sheet {
    Pile pile;
    std::vector<int> times;
};

void mark(void* argument, int thread) {
    auto& sheet = *static_cast<Sheet*>(argument);
    Tasks tasks(sheet.pile, thread);
    for (int64_t task; (task = tasks.take()) >= 0;) ++sheet.times[std::size_t(task)];
}

// Jobs in which a task was not done once.
int faults(int jobs) {
    int found = 0;
    for (int i = 0; i < jobs; ++i) {
        int threads = 1 + i % 6, tasks = 1 + i % 97;
        Sheet sheet{Pile(tasks, threads), std::vector<int>(std::size_t(tasks))};
        Crew::here().run(mark, &sheet, threads);
        for (int times : sheet.times) found += times != 1;
        if (i % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // long enough that hands fall asleep
    }
    return found;
}

}  // namespace

int main(int count, char**) {
    std::vector<int> found(3);
    std::vector<std::thread> callers;
    for (auto& own : found) callers.emplace_back([&own] { own = faults(1000); });
    for (auto& caller : callers) caller.join();
    int all = found[0] + found[1] + found[2];
    if (count > 1) {
        pid_t child = fork();
        if (child == 0) _exit(faults(100) != 0);
        int status = 1;
        waitpid(child, &status, 0);
        all += status != 0;
    }
    std::printf("%d faults\n", all);
    return all != 0;
}
