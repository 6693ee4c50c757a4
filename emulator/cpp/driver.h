// What the files of the driver API share: handles, the lock, sticky errors, and the queue of operations.
//
// Streams are lazy. An operation waits in its stream until something must see its result, and then runs in an order
// among the streams that the seed decides: a forgotten join or synchronization shows as a wrong result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "executor.h"
#include "memory.h"
#include "order.h"
#include "profiles.h"
#include "reports.h"
#include "settings.h"

// A function of the driver's API. All return a CUresult.
#define CU extern "C" __attribute__((visibility("default"))) int
// The older or newer name under which the same function is also looked up.
#define CU_ALIAS(alias_name, function) \
    extern "C" __typeof__(function) alias_name __attribute__((alias(#function), visibility("default")))

namespace emu::driver {

using namespace reports;
using DeviceAddress = uint64_t;

struct Context;
struct Stream;

// A point in a stream: passed when that many of its operations are done.
struct Ticket {
    std::shared_ptr<Stream> stream;
    uint64_t number = 0;
    // What is known to come before that point (order.h).
    order::Clock clock;
    bool passed() const;
};

struct Operation {
    std::string name;
    std::function<int()> work;
    std::vector<Ticket> after;
    std::shared_ptr<const order::Mark> mark;
};

// A captured operation, and the indices of those that it must follow.
struct Node {
    std::string name;
    std::function<int()> work;
    std::vector<size_t> after;
};

struct Graph {
    std::vector<Node> nodes;
};

// A capture in progress.
struct Capture {
    Graph graph;
    Stream* origin = nullptr;
    std::vector<Stream*> members;
    bool invalid = false;
};

struct Stream {
    explicit Stream(Context* owner, unsigned creation_flags = 0) : context(owner), flags(creation_flags) {}
    Context* const context;
    const unsigned flags;
    bool is_null() const;
    // Exempt from waiting for its context's null stream, and it for them.
    bool is_non_blocking() const { return flags & 1; }
    std::deque<Operation> queue;
    uint64_t issued = 0, done = 0;
    uint32_t id = order::new_stream();
    order::Clock clock;
    bool running = false;
    std::shared_ptr<Capture> capture;
    // While capturing: the nodes that the next operation follows.
    std::vector<size_t> frontier;
};

struct Event {
    Context* context = nullptr;
    unsigned flags = 0;
    bool recorded = false;
    Ticket ticket;
    std::shared_ptr<double> milliseconds;  // when the record was reached
    // Recorded in a capture: that capture, and the nodes that a wait then follows.
    std::weak_ptr<Capture> capture;
    bool captured = false;
    std::vector<size_t> frontier;
};

struct Function {
    Context* context;
    const KernelDescription* kernel;
    int max_dynamic_shared = 48 * 1024;
    bool non_portable_cluster = false;
};

struct Module {
    Context* context = nullptr;
    std::vector<std::unique_ptr<Function>> functions;
};

// The address of a context is its handle. Never freed, so that threads to which it is still current can be told that it
// was destroyed, and no later context is taken for it.
struct Context {
    explicit Context(bool primary) : is_primary(primary) {}
    const bool is_primary;
    // Of the primary context, by those who retained it; of another, one until it is destroyed.
    int references = 0;
    uint64_t id = 0;
    const std::shared_ptr<Stream> null_stream = std::make_shared<Stream>(this);
    bool is_alive() const { return references > 0; }
};

inline bool Stream::is_null() const { return context->null_stream.get() == this; }

// One call of the API: holds the lock, and counts the call by its name.
class Call {
  public:
    // Whether handles, contexts or captures may be others after it.
    enum Kind { changes, looks };
    explicit Call(const char* name, Kind kind = changes);
    // Why the call cannot proceed: no cuInit, no context, or an earlier fault, which on a GPU poisons all that follows.
    int refused() const;

  private:
    std::lock_guard<std::recursive_mutex> guard_;
};

extern bool initialized;
extern int sticky_error;

Context& primary_context();
// The top of the calling thread's stack of contexts, or null. It may have been destroyed.
Context* current_context();
// Why the calling thread has no context to work in, as a CUresult.
int missing_context();

// Live handles, so that a stale one is refused and not followed.
template <class T>
class Handles {
  public:
    T* adopt(std::unique_ptr<T> object) {
        T* const handle = object.release();
        live_.insert(handle);
        return handle;
    }
    T* find(const void* handle) const {
        T* const object = static_cast<T*>(const_cast<void*>(handle));
        return live_.count(object) ? object : nullptr;
    }
    bool destroy(const void* handle) {
        T* const object = find(handle);
        if (!object) return false;
        live_.erase(object);
        delete object;
        return true;
    }
    void destroy_those_of(const Context& context) {
        for (auto at = live_.begin(); at != live_.end();) {
            T* const object = *at;
            if (object->context != &context) {
                ++at;
                continue;
            }
            at = live_.erase(at);
            delete object;
        }
    }

  private:
    std::set<T*> live_;
};

struct LaunchCounts {
    uint64_t all = 0, programmatic = 0;
};

// Never destroyed: other threads may still call while the process exits.
struct Objects {
    // Of all contexts, their null streams too.
    std::vector<std::shared_ptr<Stream>> streams{primary_context().null_stream};
    Handles<Event> events;
    Handles<Module> modules;
    Handles<Graph> graphs, executable_graphs;
    std::set<Function*> functions;
    Random order{0};
    uint64_t launches = 0;
    std::map<const emu::KernelDescription*, LaunchCounts> launches_of;
    std::vector<std::pair<char*, size_t>> pinned;
    // The contexts of what cuMemAlloc gave. Memory of the device's pool (cuMemAllocAsync) belongs to none.
    std::map<DeviceAddress, Context*> owners;
    // What the host has waited for, and so all that is issued from now on follows.
    order::Clock host_clock;
};
Objects& objects();

// Null, 1 and 2 name the null stream of the current context.
std::shared_ptr<Stream> find_stream(const void* handle);

// Puts work into a stream, or into the graph that the stream captures.
int submit(const std::shared_ptr<Stream>& stream, const char* name, std::function<int()> work,
           std::vector<Ticket> after = {});
// Puts a graph's operations into a stream, in this order of its nodes.
int submit_graph(const std::shared_ptr<Stream>& stream, const Graph& graph, const std::vector<size_t>& order);
// A ticket for all that has been issued into a stream.
Ticket ticket_of(const std::shared_ptr<Stream>& stream);
// The host waits, by the will of its program: runs up to the ticket, and remembers what is known from now on.
void host_waits_for(const Ticket& ticket);
void host_waits_for_all();
// Runs operations, for the emulator's own reasons, until the ticket is passed. One that fails sets the sticky error,
// and later ones do nothing.
void run_until(const Ticket& ticket);
void run_all();
void drop_all();
// What a synchronizing call returns in the end: looks at the canaries too.
int after_synchronization();
// Calls that synchronize or allocate at once are not allowed while any stream captures; they spoil the capture.
int refuse_while_capturing();

// Whether work waits in its stream until something must see its result. With execution off no kernel has one.
bool streams_are_lazy();

bool is_pinned(const void* host, size_t bytes);

}  // namespace emu::driver
