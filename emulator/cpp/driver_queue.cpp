// The operations of all streams, and the order in which they run.
#include <algorithm>

#include "driver.h"
#include "races.h"

namespace emu::driver {

Objects& objects() {
    static auto* const instance = new Objects;
    return *instance;
}

bool Ticket::passed() const { return !stream || stream->done >= number; }

std::shared_ptr<Stream> find_stream(const void* handle) {
    const auto number = reinterpret_cast<uintptr_t>(handle);
    if (number <= 2) return missing_context() ? nullptr : current_context()->null_stream;
    for (const auto& stream : objects().streams) {
        if (stream.get() == handle) return stream;
    }
    return nullptr;
}

namespace {

// The null stream waits for every stream of its context that is not exempt, and they for it.
void add_implicit_order(const std::shared_ptr<Stream>& stream, std::vector<Ticket>& after) {
    if (stream->is_null()) {
        for (const auto& other : objects().streams) {
            if (other != stream && other->context == stream->context && !other->is_non_blocking())
                after.push_back(ticket_of(other));
        }
    } else if (!stream->is_non_blocking()) {
        after.push_back(ticket_of(stream->context->null_stream));
    }
}

void run_first(const std::shared_ptr<Stream>& stream) {
    stream->running = true;
    const Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    for (const Ticket& ticket : operation.after) run_until(ticket);
    if (operation.work && !sticky_error) {
        races::operation_begins(operation.mark);
        if (const int result = operation.work()) sticky_error = result;
    }
    stream->done++;
    stream->running = false;
}

// An operation of some other stream that could run now, on a whim.
std::shared_ptr<Stream> another_ready_stream(const std::shared_ptr<Stream>& stream) {
    Objects& o = objects();
    if (o.streams.size() < 2 || o.order.below(2) == 0) return nullptr;
    const auto& other = o.streams[o.order.below(static_cast<uint32_t>(o.streams.size()))];
    if (other == stream || other->running || other->queue.empty()) return nullptr;
    const auto& after = other->queue.front().after;
    return std::all_of(after.begin(), after.end(), [](const Ticket& t) { return t.passed(); }) ? other : nullptr;
}

// What the next operation of the stream is known to follow.
void learn(Stream& stream, const std::vector<Ticket>& after) {
    if (!checked_build) return;
    stream.clock.merge(objects().host_clock);
    for (const Ticket& ticket : after) stream.clock.merge(ticket.clock);
}

std::shared_ptr<order::Mark> next_mark(Stream& stream, const char* name) {
    if (!checked_build) return nullptr;
    auto mark = std::make_shared<order::Mark>();
    mark->name = name;
    mark->stream = stream.id;
    mark->number = stream.issued + 1;
    stream.clock.raise(stream.id, mark->number);
    mark->clock = stream.clock;
    return mark;
}

void enqueue(const std::shared_ptr<Stream>& stream, std::string name, std::function<int()> work,
             std::vector<Ticket> after, std::shared_ptr<const order::Mark> mark) {
    stream->queue.push_back({std::move(name), std::move(work), std::move(after), std::move(mark)});
    stream->issued++;
}

}  // namespace

bool streams_are_lazy() { return settings.lazy_streams && settings.execute; }

int submit(const std::shared_ptr<Stream>& stream, const char* name, std::function<int()> work,
           std::vector<Ticket> after) {
    if (stream->capture) {
        if (stream->capture->invalid)
            return add(stream_capture_invalidated, "work for a capture that is spoilt already");
        auto& nodes = stream->capture->graph.nodes;
        nodes.push_back({name, std::move(work), stream->frontier});
        stream->frontier = {nodes.size() - 1};
        return success;
    }
    add_implicit_order(stream, after);
    learn(*stream, after);
    enqueue(stream, name, std::move(work), std::move(after), next_mark(*stream, name));
    if (streams_are_lazy()) return success;
    run_until(ticket_of(stream));
    return sticky_error;
}

int submit_graph(const std::shared_ptr<Stream>& stream, const Graph& graph, const std::vector<size_t>& order) {
    if (stream->capture) {
        stream->capture->invalid = true;
        return add(not_supported, "the launch of a graph cannot be captured");
    }
    std::vector<Ticket> after;
    add_implicit_order(stream, after);
    learn(*stream, after);
    const order::Clock before = stream->clock;
    const uint64_t last = stream->issued + order.size();
    std::vector<std::shared_ptr<order::Mark>> marks(graph.nodes.size());
    for (const size_t index : order) {
        const Node& node = graph.nodes[index];
        auto mark = std::make_shared<order::Mark>();
        mark->name = node.name;
        mark->stream = stream->id;
        mark->number = last;
        mark->branch = order::new_stream();
        mark->clock = before;
        for (const size_t earlier : node.after) {
            mark->clock.merge(marks[earlier]->clock);
            mark->clock.raise(marks[earlier]->branch, 1);
        }
        marks[index] = mark;
        enqueue(stream, node.name, node.work, after, std::move(mark));
    }
    stream->clock.raise(stream->id, last);
    if (streams_are_lazy()) return success;
    run_until(ticket_of(stream));
    return sticky_error;
}

Ticket ticket_of(const std::shared_ptr<Stream>& stream) { return {stream, stream->issued, stream->clock}; }

void host_waits_for(const Ticket& ticket) {
    run_until(ticket);
    objects().host_clock.merge(ticket.clock);
}

void host_waits_for_all() {
    run_all();
    // Nothing that ran so far need be remembered any more, or the clocks would grow with every stream there ever was.
    races::host_has_waited_for_all();
    objects().host_clock = order::Clock();
    for (const auto& stream : objects().streams) stream->clock = order::Clock();
}

void run_until(const Ticket& ticket) {
    // A copy: the stream may lose its last other owner while it runs.
    const std::shared_ptr<Stream> stream = ticket.stream;
    while (!ticket.passed() && !stream->queue.empty()) {
        if (const auto other = another_ready_stream(stream)) run_first(other);
        if (!ticket.passed() && !stream->queue.empty()) run_first(stream);
    }
}

void run_all() {
    // A copy, because a host function may destroy a stream.
    const auto streams = objects().streams;
    for (const auto& stream : streams) run_until(ticket_of(stream));
}

void drop_all() {
    for (const auto& stream : objects().streams) {
        stream->queue.clear();
        stream->done = stream->issued;
        stream->running = false;
        stream->capture = nullptr;
        stream->frontier.clear();
    }
}

int after_synchronization() {
    if (!sticky_error && memory::check_canaries()) sticky_error = illegal_address;
    return sticky_error;
}

int refuse_while_capturing() {
    for (const auto& stream : objects().streams) {
        if (!stream->capture) continue;
        stream->capture->invalid = true;
        return add(stream_capture_unsupported,
                   "a call that synchronizes or allocates was made while a stream captures");
    }
    return success;
}

}  // namespace emu::driver
