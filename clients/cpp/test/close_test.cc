// A watch that another thread closes.

#include <gtest/gtest.h>
#include <jobgateway/client.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gateway.h"

namespace jobgateway::testing {
namespace {

using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;

// An event between two threads.
class Signal {
 public:
  void Set() {
    if (!set_.exchange(true)) promise_.set_value();
  }
  void Wait() { promise_.get_future().wait(); }

 private:
  std::atomic<bool> set_ = false;
  std::promise<void> promise_;
};

// Returns the error of Next().
template <typename W>
Error ErrorOfNext(W* watch) {
  v1::JobEvent event;
  try {
    while (watch->Next(&event)) {
    }
  } catch (const Error& error) {
    return error;
  }
  return {StatusCode::OK, "the watch has ended"};
}

// Closes a watch in another thread's Next(), after `begun`.
template <typename W>
void ExpectClosed(W* watch, Signal* begun) {
  auto next =
      std::async(std::launch::async, [watch] { return ErrorOfNext(watch); });
  begun->Wait();
  watch->Close();
  if (next.wait_for(std::chrono::seconds(30)) != std::future_status::ready) {
    std::cerr << "Next() still waits\n";
    std::abort();
  }
  for (const Error& error : {next.get(), ErrorOfNext(watch)}) {
    EXPECT_STREQ(error.what(), "the watch was closed [CANCELLED, CLOSED]");
    EXPECT_EQ(error.reason, kClosed);
    EXPECT_EQ(error.action(), Action::kGiveUp);
  }
}

// Writes a state, and then nothing until the client leaves.
Status Running(ServerContext* context, const v1::WatchJobRequest&,
               Events* events) {
  events->Write(State(false));
  AwaitCancellation(*context);
  return Status::CANCELLED;
}

TEST(CloseTest, EndsARead) {
  Gateway gateway;
  gateway.watch = Running;
  Client client(gateway.target());
  Signal begun;
  CallOptions options;
  options.on_progress = [&](const v1::Job&) { begun.Set(); };
  Watch watch = client.Watch(5, options);
  ExpectClosed(&watch, &begun);
}

TEST(CloseTest, EndsTheWaitForAResponse) {
  Gateway gateway;
  Signal begun;
  gateway.watch = [&](ServerContext* context, const v1::WatchJobRequest&,
                      Events*) {
    begun.Set();
    AwaitCancellation(*context);
    return Status::CANCELLED;
  };
  Client client(gateway.target());
  Watch watch = client.Watch(5);
  ExpectClosed(&watch, &begun);
}

TEST(CloseTest, EndsTheWaitAfterAFailure) {
  Gateway gateway;
  gateway.watch = [](ServerContext*, const v1::WatchJobRequest&, Events*) {
    return GatewayError(StatusCode::UNAVAILABLE, "DRAINING", "",
                        std::chrono::hours(1));
  };
  Client client(gateway.target());
  Signal begun;
  CallOptions options;
  options.on_retry = [&](const Retry&) { begun.Set(); };
  Watch watch = client.Watch(5, options);
  ExpectClosed(&watch, &begun);
}

TEST(CloseTest, EndsTheWaitForALogin) {
  Signal begun;
  Signal end;
  Options options;
  options.login = [&] {
    begun.Set();
    end.Wait();
    return "token";
  };
  Client client("127.0.0.1:1", options);
  Watch watch = client.Watch(5);
  ExpectClosed(&watch, &begun);
  end.Set();
}

TEST(CloseTest, EndsAWatchOfManyJobs) {
  Gateway gateway;
  gateway.watch_all = [](ServerContext* context, ManyEvents* events) {
    events->Write(State(false));
    AwaitCancellation(*context);
    return Status::CANCELLED;
  };
  Client client(gateway.target());
  v1::WatchJobRequest request;
  request.set_uid(5);
  WatchAll watch = client.WatchAll({request});
  v1::JobEvent event;
  EXPECT_TRUE(watch.Next(&event));
  Signal begun;
  begun.Set();
  ExpectClosed(&watch, &begun);
}

TEST(CloseTest, AClosedWatchMakesNoCall) {
  Gateway gateway;
  std::atomic<int> calls = 0;
  gateway.watch = [&](ServerContext*, const v1::WatchJobRequest&, Events*) {
    ++calls;
    return Status::OK;
  };
  Client client(gateway.target());
  Watch watch = client.Watch(5);
  watch.Close();
  EXPECT_EQ(ErrorOfNext(&watch).reason, kClosed);
  EXPECT_EQ(calls, 0);
}

TEST(CloseTest, NoEventFollows) {
  Gateway gateway;
  gateway.watch = [](ServerContext* context, const v1::WatchJobRequest&,
                     Events* events) {
    for (int i = 0; i < 3; ++i) events->Write(State(false));
    AwaitCancellation(*context);
    return Status::CANCELLED;
  };
  Client client(gateway.target());
  Watch watch = client.Watch(5);
  v1::JobEvent event;
  EXPECT_TRUE(watch.Next(&event));
  EXPECT_TRUE(watch.Next(&event));  // the third one has probably arrived
  watch.Close();
  EXPECT_THROW(watch.Next(&event), Error);
}

TEST(CloseTest, ACallbackMayCloseItsWatch) {
  Gateway gateway;
  gateway.watch = Running;
  Client client(gateway.target());
  std::unique_ptr<Watch> watch;
  CallOptions options;
  options.on_progress = [&](const v1::Job&) { watch->Close(); };
  watch = std::make_unique<Watch>(client.Watch(5, options));
  EXPECT_EQ(ErrorOfNext(watch.get()).reason, kClosed);
}

TEST(CloseTest, ChangesNothingAfterTheEnd) {
  Gateway gateway;
  gateway.watch = [](ServerContext*, const v1::WatchJobRequest&,
                     Events* events) {
    events->Write(State(true));
    return Status::OK;
  };
  Client client(gateway.target());
  Watch watch = client.Watch(5);
  v1::JobEvent event;
  EXPECT_TRUE(watch.Next(&event));
  watch.Close();
  EXPECT_FALSE(watch.Next(&event));
  EXPECT_TRUE(watch.Finish().job.done());
}

TEST(CloseTest, TheOtherWatchesContinue) {
  Gateway gateway;
  std::promise<void> end;
  const std::shared_future<void> ended = end.get_future().share();
  gateway.watch = [ended](ServerContext* context,
                          const v1::WatchJobRequest& request, Events* events) {
    if (request.uid() % 2 == 0) return Running(context, request, events);
    events->Write(State(false));
    ended.wait();
    events->Write(State(true));
    return Status::OK;
  };
  Client client(gateway.target());
  constexpr int kWatches = 50;
  std::vector<Watch> watches;
  for (int uid = 0; uid < kWatches; ++uid) {
    watches.push_back(client.Watch(uid + 2));
  }
  std::vector<std::future<Error>> errors;
  for (Watch& watch : watches) {
    errors.push_back(std::async(std::launch::async,
                                [&watch] { return ErrorOfNext(&watch); }));
  }
  for (int i = 0; i < kWatches; i += 2) watches[i].Close();
  for (int i = 0; i < kWatches; i += 2) {
    EXPECT_EQ(errors[i].get().reason, kClosed);
  }
  end.set_value();
  for (int i = 1; i < kWatches; i += 2) {
    EXPECT_EQ(errors[i].get().code, StatusCode::OK);
    EXPECT_TRUE(watches[i].Finish().job.done());
  }
}

}  // namespace
}  // namespace jobgateway::testing
