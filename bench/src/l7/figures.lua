-- Writes wrk's figures in one line: times in microseconds, then errors.
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        "figures %d %d %d %d %d %d %d %d %d %d\n",
        summary.requests, summary.duration, summary.bytes,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
        errors.connect, errors.read + errors.write, errors.status, errors.timeout))
end
