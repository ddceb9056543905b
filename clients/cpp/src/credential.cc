#include "credential.h"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <utility>

namespace jobgateway::internal {

namespace {

// gRPC aborts the process if it has to send another character, and prints the
// token.
std::string CheckedToken(std::string token) {
  const bool sendable = std::all_of(token.begin(), token.end(), [](char byte) {
    return byte > ' ' && byte <= '~';
  });
  if (!sendable) {
    throw std::invalid_argument(
        "the token has a line break or another character that no header can "
        "carry: remove white space at its ends");
  }
  return token;
}

}  // namespace

struct Credential::Login {
  bool done = false;
  std::string token;
  std::exception_ptr failure;
};

Credential::Credential(std::string token, std::function<std::string()> login)
    : login_(std::move(login)),
      known_(!login_),
      token_(CheckedToken(std::move(token))) {}

std::optional<std::string> Credential::Token(Time end,
                                             const std::atomic<bool>& closed) {
  std::unique_lock lock(mutex_);
  while (!known_) {
    if (LogIn(&lock, end, closed) == nullptr) return std::nullopt;
  }
  return token_;
}

std::optional<bool> Credential::Renew(const std::string& used, Time end,
                                      const std::atomic<bool>& closed) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (token_ != used) return true;
    if (!login_) return false;
    const auto login = LogIn(&lock, end, closed);
    if (login == nullptr) return std::nullopt;
    if (!login->failure) return !login->token.empty();
  }
}

void Credential::Close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void Credential::Wake() {
  // A wait that has checked its call already holds the lock until it waits.
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

std::shared_ptr<const Credential::Login> Credential::LogIn(
    std::unique_lock<std::mutex>* lock, Time end,
    const std::atomic<bool>& closed) {
  const bool begins = running_ == nullptr;
  if (begins) {
    auto login = std::make_shared<Login>();
    task_ = std::async(std::launch::async, [this, login] { Run(login.get()); });
    running_ = std::move(login);
  }
  const std::shared_ptr<const Login> login = running_;
  changed_.wait_until(*lock, end,
                      [&] { return closed_ || closed || login->done; });
  if (!login->done) return nullptr;
  if (login->failure && begins) std::rethrow_exception(login->failure);
  return login;
}

void Credential::Run(Login* login) {
  std::string token;
  std::exception_ptr failure;
  try {
    token = CheckedToken(login_());
  } catch (...) {
    failure = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  // An empty token is that of the first login, or none other.
  if (!failure && (!known_ || !token.empty())) {
    token_ = token;
    known_ = true;
  }
  login->token = std::move(token);
  login->failure = failure;
  login->done = true;
  running_.reset();
  changed_.notify_all();
}

}  // namespace jobgateway::internal
