// Streams and events.
#include <algorithm>
#include <chrono>

#include "driver.h"

using namespace emu::driver;

namespace {

// A null stream is missing for want of a context.
int missing_stream(const void* handle) {
    return reinterpret_cast<uintptr_t>(handle) > 2 ? static_cast<int>(invalid_handle) : missing_context();
}

double milliseconds_now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int spoil(const std::shared_ptr<Stream>& stream, int error, const char* text) {
    stream->capture->invalid = true;
    return add(error, text);
}

void join_frontiers(std::vector<size_t>& into, const std::vector<size_t>& from) {
    for (const size_t node : from) {
        if (std::find(into.begin(), into.end(), node) == into.end()) into.push_back(node);
    }
}

int wait_in_capture(const std::shared_ptr<Stream>& stream, const Event& event) {
    const auto capture = event.capture.lock();
    if (!capture)
        return stream->capture ? spoil(stream, stream_capture_isolation, "wait on an event of an ended capture")
                               : add(captured_event, "wait on an event that was recorded in an ended capture");
    if (stream->capture && stream->capture != capture) {
        capture->invalid = true;
        return spoil(stream, stream_capture_merge, "a wait would merge two separate captures");
    }
    if (!stream->capture) {
        if (stream->is_null()) {
            capture->invalid = true;
            return add(stream_capture_implicit, "the null stream cannot join a capture");
        }
        stream->capture = capture;
        stream->frontier.clear();
        capture->members.push_back(stream.get());
    }
    join_frontiers(stream->frontier, event.frontier);
    return success;
}

}  // namespace

CU cuStreamCreate(void** stream, unsigned flags) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    auto created = std::make_shared<Stream>(current_context(), flags);
    objects().streams.push_back(created);
    *stream = created.get();
    return success;
}

CU cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

CU cuStreamDestroy_v2(void* handle) {
    const Call call(__func__);
    const auto stream = find_stream(handle);
    if (!stream || stream->is_null()) return invalid_handle;
    // The driver lets queued work finish. Nobody can wait for it by the stream any more, so it may as well be now.
    run_until(ticket_of(stream));
    auto& streams = objects().streams;
    streams.erase(std::remove(streams.begin(), streams.end(), stream), streams.end());
    return success;
}
CU_ALIAS(cuStreamDestroy, cuStreamDestroy_v2);

CU cuStreamSynchronize(void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    if (stream->capture) return spoil(stream, stream_capture_unsupported, "a capturing stream cannot be synchronized");
    host_waits_for(ticket_of(stream));
    return after_synchronization();
}

CU cuStreamQuery(void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    if (stream->capture) return spoil(stream, stream_capture_unsupported, "a capturing stream cannot be queried");
    const bool done = stream->queue.empty();
    // Polling must end some time: every question lets one operation run.
    if (!done) {
        run_until({stream, stream->done + 1, {}});
    } else {
        host_waits_for(ticket_of(stream));
    }
    return done ? sticky_error : static_cast<int>(not_ready);
}

CU cuStreamGetCtx(void* handle, void** context) {
    const Call call(__func__);
    const auto stream = find_stream(handle);
    if (!stream) return missing_stream(handle);
    *context = stream->context;
    return success;
}

CU cuStreamGetFlags(void* handle, unsigned* flags) {
    const Call call(__func__);
    const auto stream = find_stream(handle);
    if (!stream) return missing_stream(handle);
    *flags = stream->flags;
    return success;
}

CU cuStreamGetPriority(void* handle, int* priority) {
    const Call call(__func__);
    *priority = 0;
    return find_stream(handle) ? static_cast<int>(success) : missing_stream(handle);
}

CU cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    const Event* const event = objects().events.find(event_handle);
    if (!stream || !event) return invalid_handle;
    if (!event->recorded) return success;
    if (event->captured) return wait_in_capture(stream, *event);
    if (stream->capture) {
        return spoil(stream, stream_capture_isolation,
                     "a capturing stream waits on an event recorded outside of the capture");
    }
    return submit(stream, "wait", nullptr, {event->ticket});
}

CU cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    return submit(stream, "host function", [=] {
        function(data);
        return 0;
    });
}

CU cuEventCreate(void** event, unsigned flags) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    auto created = std::make_unique<Event>();
    created->context = current_context();
    created->flags = flags;
    *event = objects().events.adopt(std::move(created));
    return success;
}

CU cuEventDestroy_v2(void* handle) {
    const Call call(__func__);
    return objects().events.destroy(handle) ? success : invalid_handle;
}
CU_ALIAS(cuEventDestroy, cuEventDestroy_v2);

CU cuEventRecord(void* event_handle, void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    Event* const event = objects().events.find(event_handle);
    if (!stream || !event) return invalid_handle;
    if (event->context != stream->context)
        return add(invalid_handle, "an event was recorded in a stream of another context");
    event->recorded = true;
    event->captured = stream->capture != nullptr;
    if (stream->capture) {
        event->capture = stream->capture;
        event->frontier = stream->frontier;
        return success;
    }
    event->milliseconds = std::make_shared<double>(0);
    const int result = submit(stream, "record", [when = event->milliseconds] {
        *when = milliseconds_now();
        return 0;
    });
    event->ticket = ticket_of(stream);
    return result;
}

CU cuEventRecordWithFlags(void* event, void* stream, unsigned) { return cuEventRecord(event, stream); }

CU cuEventSynchronize(void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const Event* const event = objects().events.find(handle);
    if (!event) return invalid_handle;
    if (!event->recorded) return success;
    if (event->captured) return add(captured_event, "an event that was recorded in a capture cannot be synchronized");
    host_waits_for(event->ticket);
    return after_synchronization();
}

CU cuEventQuery(void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const Event* const event = objects().events.find(handle);
    if (!event) return invalid_handle;
    if (event->captured) return captured_event;
    if (!event->recorded) return success;
    if (!event->ticket.passed()) {
        run_until({event->ticket.stream, event->ticket.stream->done + 1, {}});
        return not_ready;
    }
    host_waits_for(event->ticket);
    return success;
}

CU cuEventElapsedTime_v2(float* milliseconds, void* start_handle, void* end_handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const Event* const start = objects().events.find(start_handle);
    const Event* const end = objects().events.find(end_handle);
    if (!start || !end || !start->recorded || !end->recorded) return invalid_handle;
    if (start->context != end->context) return add(invalid_handle, "elapsed time between events of two contexts");
    constexpr unsigned no_timing = 2;
    if ((start->flags | end->flags) & no_timing)
        return add(invalid_handle, "elapsed time of an event made without timing");
    if (!start->ticket.passed() || !end->ticket.passed()) return not_ready;
    *milliseconds = static_cast<float>(*end->milliseconds - *start->milliseconds);
    return success;
}
CU_ALIAS(cuEventElapsedTime, cuEventElapsedTime_v2);
