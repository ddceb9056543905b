// The attempts of one call.

#ifndef JOBGATEWAY_SRC_ATTEMPTS_H_
#define JOBGATEWAY_SRC_ATTEMPTS_H_

#include <jobgateway/options.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "connection.h"
#include "duration.h"

namespace jobgateway::internal {

// How a call of a watch ended.
struct EndedCall {
  Error error;  // its code may be OK
  std::shared_ptr<Connection::Stub> used;
  std::string token;
  bool replayed;  // it ended with OK, and repeated an earlier submission
};

// The state that the attempts of one call share, and the steps between them.
class Attempts {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `last_start`: no attempt but the first begins later.
  Attempts(std::shared_ptr<Connection> connection, CallOptions options,
           Time last_start = Time::max())
      : connection_(std::move(connection)),
        options_(std::move(options)),
        end_(std::chrono::steady_clock::now() +
             std::min(options_.timeout.value_or(kLongest), kLongest)),
        last_start_(std::min(last_start, end_)) {}

  const std::shared_ptr<Connection>& connection() const { return connection_; }
  const std::shared_ptr<Handle>& handle() const { return handle_; }
  const CallOptions& options() const { return options_; }

  // Returns the rest of the timeout, at most `limit`.
  std::chrono::nanoseconds Cap(std::chrono::nanoseconds limit) const {
    return std::min<std::chrono::nanoseconds>(limit, Left());
  }

  // Returns the rest of the timeout.
  std::chrono::nanoseconds Left() const {
    return end_ - std::chrono::steady_clock::now();
  }

  // Ends the call, from any thread.
  void Close() const { connection_->Close(handle_.get()); }

  // Throws if the client or the call is closed, or the timeout has passed.
  void Check() const {
    connection_->CheckOpen(*handle_);
    if (Left() <= std::chrono::nanoseconds(0)) throw TimedOut();
  }

  // Notes the error of an attempt. Throws if there is no time for another one.
  void Failed(const Error& error) {
    // At the end of the timeout, these only repeat that it has passed.
    if (error.reason == kSilent ||
        error.code == grpc::StatusCode::DEADLINE_EXCEEDED) {
      Check();
    }
    last_ = std::make_shared<const Error>(error);
    Check();
  }

  // Returns the token of the next attempt, after the first login.
  std::string Token() const {
    while (true) {
      if (const auto token =
              connection_->credential().Token(end_, handle_->closed)) {
        return *token;
      }
      Check();
    }
  }

  // Returns whether there is another token than `used`, after a login.
  bool Renew(const std::string& used) const {
    while (true) {
      if (const auto renewed =
              connection_->credential().Renew(used, end_, handle_->closed)) {
        return *renewed;
      }
      Check();
    }
  }

  // Calls `step` until it throws, and throws the same from then on: a failed
  // watch must not look as if its jobs had ended. It needs `stream` no longer.
  template <typename Stream, typename Step>
  bool Guard(std::unique_ptr<Stream>* stream, Step step) {
    if (failure_) std::rethrow_exception(failure_);
    try {
      return step();
    } catch (...) {
      failure_ = std::current_exception();
      stream->reset();
      throw;
    }
  }

  // Prepares the next call of a watch, or throws the error if it is final.
  // `decide` returns the next call, and takes whether there is a fresh token.
  template <typename Decide>
  void Resume(const EndedCall& last, bool wants_token, Decide decide) {
    Failed(last.error);
    const bool renewed = wants_token && Renew(last.token);
    const std::optional<Retry> next = decide(renewed);
    if (!next) throw last.error;
    Prepare(*next, last.used);
  }

  // Prepares the next attempt, and waits for it. Throws immediately if the
  // timeout passes before it. `used`: the connection of the last attempt.
  void Prepare(const Retry& retry,
               const std::shared_ptr<Connection::Stub>& used) const {
    if (retry.wait >= last_start_ - std::chrono::steady_clock::now()) {
      throw TimedOut();
    }
    if (options_.on_retry) options_.on_retry(retry);
    connection_->Sleep(retry.wait, *handle_);
    Check();
    if (retry.new_connection) connection_->Reconnect(used);
  }

 private:
  Error TimedOut() const {
    const std::string what = "there is no time left for the call";
    Error error(grpc::StatusCode::DEADLINE_EXCEEDED,
                last_ ? what + "; its last error: " + last_->what() : what);
    error.cause = last_;
    return error;
  }

  const std::shared_ptr<Connection> connection_;
  // On the heap, because its address does not change when this moves.
  const std::shared_ptr<Handle> handle_ = std::make_shared<Handle>();
  const CallOptions options_;
  const Time end_;
  const Time last_start_;
  std::shared_ptr<const Error> last_;  // null before the first error
  std::exception_ptr failure_;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_ATTEMPTS_H_
