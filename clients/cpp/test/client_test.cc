// Cases that the scenarios do not show: callbacks that are empty, shared
// logins, closing, timeouts, and TLS.

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>
#include <gtest/gtest.h>
#include <jobgateway/client.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gateway.h"

namespace jobgateway::testing {
namespace {

using google::protobuf::util::TimeUtil;
using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;

v1::RunJobRequest RunRequest(const std::string& request_id) {
  v1::RunJobRequest request;
  request.mutable_request()->set_request_id(request_id);
  return request;
}

// Returns the error of a call.
template <typename Call>
Error ErrorIn(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error("the call did not fail");
}

TEST(ClientTest, RunWithoutCallbacksContinuesAsAWatch) {
  Gateway gateway;
  gateway.run = [](ServerContext*, const v1::RunJobRequest&, Events* events) {
    events->Write(State(false));
    return Status(StatusCode::UNAVAILABLE, "a proxy died");
  };
  v1::WatchJobRequest resumed;
  std::string header;
  gateway.watch = [&](ServerContext* context,
                      const v1::WatchJobRequest& request, Events* events) {
    resumed = request;
    header = Metadata(*context, "x-job-uid");
    events->Write(State(true));
    return Status::OK;
  };
  const Finished end = Client(gateway.target()).Run(RunRequest("")).Finish();
  EXPECT_EQ(end.job.status(), v1::JOB_STATUS_SUCCESS);
  EXPECT_EQ(resumed.uid(), 5);
  EXPECT_EQ(resumed.resume_token(), "token-1");
  EXPECT_EQ(header, "5");
}

TEST(ClientTest, RunWatchesTheJobThatAnErrorNames) {
  // The job of the second one would be created again with the token of a login.
  for (const auto code :
       {StatusCode::UNAVAILABLE, StatusCode::UNAUTHENTICATED}) {
    Gateway gateway;
    int runs = 0;
    gateway.run = [&](ServerContext*, const v1::RunJobRequest&, Events*) {
      ++runs;
      return GatewayError(code, "TEST", "5");
    };
    gateway.watch = [](ServerContext*, const v1::WatchJobRequest&,
                       Events* events) {
      events->Write(State(true));
      return Status::OK;
    };
    Options options;
    int logins = 0;
    options.login = [&] { return std::to_string(++logins); };
    Client client(gateway.target(), options);
    const Finished end = client.Run(RunRequest("")).Finish();
    EXPECT_EQ(end.job.uid(), 5);
    EXPECT_EQ(runs, 1);
  }
}

TEST(ClientTest, SendIsNotRepeatedAfterAnErrorThatNamesTheJob) {
  Gateway gateway;
  std::atomic<int> sends = 0;
  gateway.send = [&](v1::Job*) {
    ++sends;
    return GatewayError(StatusCode::UNAUTHENTICATED, "TEST", "5");
  };
  Options options;
  std::atomic<int> logins = 0;
  options.login = [&] { return std::to_string(++logins); };
  Client client(gateway.target(), options);
  const auto send = [&] { client.Send(NewRequest("1", 7, "run")); };
  EXPECT_EQ(ErrorIn(send).uid(), 5);
  EXPECT_EQ(sends, 1);
}

struct Submission {
  Status status;
  std::string request_id;
  int calls;
};

class SubmissionTest : public ::testing::TestWithParam<Submission> {};

TEST_P(SubmissionTest, RunIsSentAgainOnlyIfThatIsSafe) {
  Gateway gateway;
  int calls = 0;
  gateway.run = [&](ServerContext*, const v1::RunJobRequest&, Events* events) {
    if (++calls == 1) return GetParam().status;
    events->Write(State(true));
    return Status::OK;
  };
  Watch watch = Client(gateway.target()).Run(RunRequest(GetParam().request_id));
  if (GetParam().calls == 2) {
    EXPECT_TRUE(watch.Finish().job.done());
  } else {
    EXPECT_EQ(ErrorIn([&] { watch.Finish(); }).code,
              GetParam().status.error_code());
  }
  EXPECT_EQ(calls, GetParam().calls);
}

INSTANTIATE_TEST_SUITE_P(
    Statuses, SubmissionTest,
    ::testing::Values(
        Submission{{StatusCode::INTERNAL, "a proxy died"}, "", 1},
        Submission{{StatusCode::INTERNAL, "a proxy died"}, "id", 2},
        Submission{Status::OK, "", 1}, Submission{Status::OK, "id", 2},
        Submission{GatewayError(StatusCode::UNAVAILABLE, "DRAINING"), "", 2},
        Submission{GatewayError(StatusCode::INVALID_ARGUMENT, "INVALID"), "id",
                   1}));

TEST(ClientTest, AFailedWatchNeverLooksLikeAnEnd) {
  Gateway gateway;
  gateway.watch = [](ServerContext*, const v1::WatchJobRequest&,
                     Events* events) {
    v1::JobEvent event = State(true);
    event.mutable_job()->set_content_json("{}");
    event.mutable_job()->set_content_size(2);
    event.mutable_job()->set_content_sha256("wrong");
    events->Write(event);
    return Status::OK;
  };
  Watch watch = Client(gateway.target()).Watch(5);
  v1::JobEvent event;
  for (int call = 0; call < 2; ++call) {
    EXPECT_EQ(ErrorIn([&] { watch.Next(&event); }).code, StatusCode::DATA_LOSS);
  }
}

TEST(ClientTest, FinishReturnsTheJobAlsoAfterTheLastEvent) {
  Gateway gateway;
  gateway.watch = [](ServerContext*, const v1::WatchJobRequest&,
                     Events* events) {
    v1::JobEvent event = State(true);
    event.mutable_job()->set_content_json("{}");
    events->Write(event);
    return Status::OK;
  };
  Watch watch = Client(gateway.target()).Watch(5);
  v1::JobEvent event;
  while (watch.Next(&event)) {
  }
  for (int call = 0; call < 2; ++call) {
    const Finished end = watch.Finish();
    EXPECT_TRUE(end.job.done());
    EXPECT_EQ(end.result, "{}");
  }
}

TEST(ClientTest, NothingFollowsTheEndOfAJob) {
  Gateway gateway;
  std::atomic<int> calls = 0;
  gateway.watch = [&](ServerContext*, const v1::WatchJobRequest&,
                      Events* events) {
    ++calls;
    events->Write(State(true));
    events->Write(State(false));
    return Status::OK;
  };
  Client client(gateway.target());
  Watch watch = client.Watch(5);
  v1::JobEvent event;
  EXPECT_TRUE(watch.Next(&event));
  EXPECT_FALSE(watch.Next(&event));
  EXPECT_TRUE(watch.Finish().job.done());
  EXPECT_EQ(calls, 1);
}

TEST(ClientTest, AResultThatTheGatewayDidNotKeepIsNotDamaged) {
  Gateway gateway;
  gateway.run = [](ServerContext*, const v1::RunJobRequest&, Events* events) {
    v1::JobEvent event = State(true);
    event.set_uid(0);
    event.mutable_job()->set_uid(0);
    event.mutable_job()->set_content_omitted(true);
    event.mutable_job()->set_content_size(2);
    event.mutable_job()->set_content_sha256("44136fa3");
    events->Write(event);
    return Status::OK;
  };
  const Finished end = Client(gateway.target()).Run(RunRequest("id")).Finish();
  EXPECT_TRUE(end.job.content_omitted());
  EXPECT_EQ(end.result, "");
}

TEST(ClientTest, RequestsThatTheGatewayCannotReadFailAtOnce) {
  Client client("127.0.0.1:1");
  v1::SendJobRequest request = NewRequest("\xff", 7, "run");
  EXPECT_EQ(ErrorIn([&] { client.Send(request); }).code,
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorIn([&] { client.Run(request); }).code,
            StatusCode::INVALID_ARGUMENT);
  v1::WatchJobRequest watch;
  watch.set_resume_token("\xff");
  EXPECT_EQ(ErrorIn([&] { client.Watch(watch); }).code,
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorIn([&] { client.WatchAll({watch}); }).code,
            StatusCode::INVALID_ARGUMENT);
}

TEST(ClientTest, RunRejectsCancelOnDisconnect) {
  v1::RunJobRequest request = RunRequest("id");
  request.set_cancel_on_disconnect(true);
  Client client("127.0.0.1:1");
  EXPECT_EQ(ErrorIn([&] { client.Run(request); }).code,
            StatusCode::INVALID_ARGUMENT);
}

TEST(ClientTest, AWaitSurvivesMoreThanFiveFailures) {
  Gateway gateway;
  gateway.wait = [](const v1::WaitJobRequest& request, v1::Job*) {
    return request.uid() == 5
               ? GatewayError(StatusCode::UNAVAILABLE, "NO_STATE_YET")
               : GatewayError(StatusCode::INTERNAL, "UPSTREAM_ERROR");
  };
  Client client(gateway.target());
  // At the same time, because both take the waits of five attempts.
  auto other = std::async(std::launch::async, [&] {
    int failures = 0;
    CallOptions options;
    options.on_retry = [&](const Retry&) { ++failures; };
    EXPECT_EQ(ErrorIn([&] { client.Wait(6, options); }).reason,
              "UPSTREAM_ERROR");
    return failures;
  });
  int failures = 0;
  CallOptions options;
  options.on_retry = [&](const Retry&) {
    if (++failures == 5) throw std::runtime_error("enough");
  };
  EXPECT_THROW(client.Wait(5, options), std::runtime_error);
  EXPECT_EQ(other.get(), 4);
}

TEST(ClientTest, TheTimeoutOfAWaitCountsForAllItsAttempts) {
  Gateway gateway;
  std::vector<std::int64_t> timeouts;
  gateway.wait = [&](const v1::WaitJobRequest& request, v1::Job* job) {
    timeouts.push_back(TimeUtil::DurationToNanoseconds(request.timeout()));
    if (timeouts.size() == 1) return Status(StatusCode::UNAVAILABLE, "later");
    job->set_uid(5);
    return Status::OK;
  };
  v1::WaitJobRequest request;
  request.set_uid(5);
  request.mutable_timeout()->set_seconds(3600);
  EXPECT_FALSE(Client(gateway.target()).Wait(request).done());
  ASSERT_EQ(timeouts.size(), 2U);
  EXPECT_LT(timeouts[1], timeouts[0] - 100'000'000);  // the wait between them
}

TEST(ClientTest, AWaitWithoutTimeReadsOnce) {
  Gateway gateway;
  int calls = 0;
  gateway.wait = [&](const v1::WaitJobRequest& request, v1::Job* job) {
    EXPECT_TRUE(request.has_timeout());
    EXPECT_EQ(request.timeout().seconds(), 0);
    job->set_uid(5);
    return ++calls == 1 ? Status::OK : Status(StatusCode::UNAVAILABLE, "later");
  };
  v1::WaitJobRequest request;
  request.set_uid(5);
  request.mutable_timeout();
  Client client(gateway.target());
  EXPECT_EQ(client.Wait(request).uid(), 5);
  EXPECT_EQ(ErrorIn([&] { client.Wait(request); }).code,
            StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(calls, 2);
}

TEST(ClientTest, TheTimeoutOfAWaitHasItsCause) {
  Gateway gateway;
  gateway.wait = [](const v1::WaitJobRequest&, v1::Job*) {
    // Longer than the timeout, but not than that and the time of a response.
    return GatewayError(StatusCode::UNAVAILABLE, "LIMIT_REACHED", "",
                        std::chrono::seconds(601));
  };
  v1::WaitJobRequest request;
  request.set_uid(5);
  request.mutable_timeout()->set_seconds(600);
  const Error error = ErrorIn([&] { Client(gateway.target()).Wait(request); });
  EXPECT_EQ(error.code, StatusCode::DEADLINE_EXCEEDED);
  ASSERT_NE(error.cause, nullptr);
  EXPECT_EQ(error.cause->reason, "LIMIT_REACHED");
}

TEST(ClientTest, AWaitReturnsTheUnfinishedJobAtItsTimeout) {
  Gateway gateway;
  gateway.wait = [](const v1::WaitJobRequest&, v1::Job* job) {
    job->set_uid(5);
    return Status::OK;
  };
  CallOptions options;
  options.timeout = std::chrono::milliseconds(900);
  const v1::Job job = Client(gateway.target()).Wait(5, options);
  EXPECT_EQ(job.uid(), 5);
  EXPECT_FALSE(job.done());
}

TEST(ClientTest, AnErrorAfterTheTimeoutHasItsCause) {
  Gateway gateway;
  gateway.get = [](ServerContext*, v1::Job*) {
    return GatewayError(StatusCode::UNAVAILABLE, "UPSTREAM_UNREACHABLE", "5",
                        std::chrono::hours(1));
  };
  CallOptions options;
  options.timeout = std::chrono::minutes(10);
  const Error error =
      ErrorIn([&] { Client(gateway.target()).Get(5, options); });
  EXPECT_EQ(error.code, StatusCode::DEADLINE_EXCEEDED);
  ASSERT_NE(error.cause, nullptr);
  EXPECT_EQ(error.cause->reason, "UPSTREAM_UNREACHABLE");
}

TEST(ClientTest, ATimeoutMayBeTheLongestDuration) {
  Gateway gateway;
  gateway.get = [](ServerContext*, v1::Job* job) {
    job->set_uid(5);
    return Status::OK;
  };
  CallOptions options;
  options.timeout = std::chrono::nanoseconds::max();
  EXPECT_EQ(Client(gateway.target()).Get(5, options).uid(), 5);
}

TEST(ClientTest, TheGatewayCanLogTheClient) {
  Gateway gateway;
  std::string agent;
  gateway.get = [&](ServerContext* context, v1::Job*) {
    agent = Metadata(*context, "user-agent");
    return Status::OK;
  };
  Client(gateway.target()).Get(5);
  EXPECT_EQ(agent.rfind("jobgateway-cpp/0.", 0), 0U) << agent;
}

// Returns the message of the error of a configuration.
std::string Rejection(const std::string& target, const Options& options) {
  try {
    Client client(target, options);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(ClientTest, TargetsThatNoCallCouldReachAreRejected) {
  for (const char* target : {"", "https://a:1", "HTTP://a:1", "a:1\n", "a b"}) {
    EXPECT_NE(Rejection(target, {}).find("HOST:PORT"), std::string::npos)
        << target;
  }
  EXPECT_EQ(Rejection("dns:///a:1", {}), "");
}

TEST(ClientTest, AnInvalidServiceConfigIsRejected) {
  Options options;
  options.service_config = R"({"methodConfig": 1})";
  EXPECT_NE(Rejection("a:1", options).find("service config"),
            std::string::npos);
}

TEST(ClientTest, ATokenThatNoHeaderCanCarryIsRejected) {
  for (const char* token : {"top-secret\n", "\xc3\xbc", "top secret"}) {
    Options options;
    options.token = token;
    const std::string message = Rejection("a:1", options);
    EXPECT_NE(message.find("white space"), std::string::npos);
    EXPECT_EQ(message.find("secret"), std::string::npos);
    options.token = "";
    options.login = [token] { return token; };
    Client client("127.0.0.1:1", options);
    EXPECT_THROW(client.Get(5), std::invalid_argument);
    EXPECT_THROW(client.Watch(5).Finish(), std::invalid_argument);
  }
}

TEST(ClientTest, AnErrorHasItsDetails) {
  Gateway gateway;
  gateway.get = [](ServerContext*, v1::Job*) {
    return GatewayError(StatusCode::NOT_FOUND, "JOB_NOT_FOUND", "5");
  };
  const Error error = ErrorIn([&] { Client(gateway.target()).Get(5); });
  EXPECT_EQ(error.reason, "JOB_NOT_FOUND");
  EXPECT_EQ(error.uid(), 5);
  EXPECT_EQ(error.action(), Action::kFix);
  EXPECT_STREQ(error.what(), "scripted [NOT_FOUND, JOB_NOT_FOUND]");
}

TEST(ClientTest, ARepeatedSubmissionIsReported) {
  Gateway gateway;
  gateway.run = [](ServerContext* context, const v1::RunJobRequest&,
                   Events* events) {
    context->AddTrailingMetadata("jobgateway-replayed", "true");
    events->Write(State(true));
    return Status::OK;
  };
  bool replayed = false;
  CallOptions options;
  options.on_replayed = [&] { replayed = true; };
  Client(gateway.target()).Run(RunRequest("id"), options).Finish();
  EXPECT_TRUE(replayed);
}

TEST(ClientTest, WatchesShareOneLogin) {
  Gateway gateway;
  gateway.watch = [](ServerContext* context, const v1::WatchJobRequest&,
                     Events* events) {
    if (Metadata(*context, "authorization") != "Bearer fresh") {
      return GatewayError(StatusCode::UNAUTHENTICATED, "TOKEN_REJECTED");
    }
    events->Write(State(true));
    return Status::OK;
  };
  std::atomic<int> logins = 0;
  Options options;
  options.login = [&] {
    return ++logins == 1 ? std::string("old") : std::string("fresh");
  };
  Client client(gateway.target(), options);
  std::vector<std::thread> watches;
  for (int i = 0; i < 10; ++i) {
    watches.emplace_back(
        [&] { EXPECT_TRUE(client.Watch(5).Finish().job.done()); });
  }
  for (std::thread& watch : watches) watch.join();
  EXPECT_EQ(logins, 2);
}

// A login that ends when a test says so.
class SlowLogin {
 public:
  ~SlowLogin() { End(); }

  std::string operator()() {
    begun_.set_value();
    end_.get_future().wait();
    return "token";
  }
  void AwaitBegin() { begun_.get_future().wait(); }
  void End() {
    std::call_once(once_, [this] { end_.set_value(); });
  }

 private:
  std::promise<void> begun_;
  std::promise<void> end_;
  std::once_flag once_;
};

TEST(ClientTest, ALoginDoesNotOutlastTheTimeoutOfACall) {
  SlowLogin login;
  Options options;
  options.login = [&] { return login(); };
  auto client = std::make_unique<Client>("127.0.0.1:1", options);
  CallOptions brief;
  brief.timeout = std::chrono::milliseconds(20);
  for (int call = 0; call < 2; ++call) {  // begins the login, and joins it
    EXPECT_EQ(ErrorIn([&] { client->Watch(5, brief).Finish(); }).code,
              StatusCode::DEADLINE_EXCEEDED);
    EXPECT_EQ(ErrorIn([&] { client->Get(5, brief); }).code,
              StatusCode::DEADLINE_EXCEEDED);
  }
  login.End();
  client.reset();
}

TEST(ClientTest, CloseEndsTheWaitForALogin) {
  SlowLogin login;
  Options options;
  options.login = [&] { return login(); };
  auto client = std::make_unique<Client>("127.0.0.1:1", options);
  auto call = std::async(std::launch::async,
                         [&] { return ErrorIn([&] { client->Get(5); }); });
  login.AwaitBegin();
  client->Close();
  EXPECT_EQ(call.get().reason, kClosed);
  login.End();
  client.reset();
}

TEST(ClientTest, AFailedLoginEndsOnlyTheCallThatBeganIt) {
  Gateway gateway;
  gateway.get = [](ServerContext*, v1::Job* job) {
    job->set_uid(5);
    return Status::OK;
  };
  std::atomic<int> logins = 0;
  Options options;
  options.login = [&]() -> std::string {
    if (++logins == 1) throw std::runtime_error("no network");
    return "token";
  };
  Client client(gateway.target(), options);
  std::atomic<int> failures = 0;
  std::vector<std::thread> calls;
  for (int i = 0; i < 10; ++i) {
    calls.emplace_back([&] {
      try {
        client.Get(5);
      } catch (const std::runtime_error&) {
        ++failures;
      }
    });
  }
  for (std::thread& call : calls) call.join();
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(logins, 2);
}

TEST(ClientTest, WithoutAnotherTokenTheRejectionIsFinal) {
  Gateway gateway;
  gateway.watch = [](ServerContext*, const v1::WatchJobRequest&, Events*) {
    return GatewayError(StatusCode::UNAUTHENTICATED, "TOKEN_REJECTED");
  };
  Client client(gateway.target(), {"rejected"});
  const Error error = ErrorIn([&] { client.Watch(5).Finish(); });
  EXPECT_EQ(error.reason, "TOKEN_REJECTED");
}

TEST(ClientTest, CloseEndsAWatchAndItsWait) {
  Gateway gateway;
  gateway.watch = [](ServerContext* context, const v1::WatchJobRequest& request,
                     Events* events) {
    if (request.uid() == 6) return Status(StatusCode::UNAVAILABLE, "later");
    events->Write(State(false));
    AwaitCancellation(*context);
    return Status::OK;
  };
  for (const int uid : {5, 6}) {
    Client client(gateway.target());
    std::promise<void> begun;
    std::once_flag once;
    const auto begin = [&] {
      std::call_once(once, [&] { begun.set_value(); });
    };
    CallOptions options;
    options.on_progress = [&](const v1::Job&) { begin(); };
    options.on_retry = [&](const Retry&) { begin(); };
    auto watch = std::async(std::launch::async, [&] {
      return ErrorIn([&] { client.Watch(uid, options).Finish(); });
    });
    begun.get_future().wait();
    client.Close();
    const Error error = watch.get();
    EXPECT_STREQ(error.what(), "the client was closed [CANCELLED, CLOSED]");
    EXPECT_EQ(error.action(), Action::kGiveUp);
  }
}

TEST(ClientTest, ATimeoutLimitsTheWholeWatch) {
  Gateway gateway;
  gateway.watch = [](ServerContext* context, const v1::WatchJobRequest&,
                     Events*) {
    AwaitCancellation(*context);
    return Status::OK;
  };
  CallOptions options;
  options.timeout = std::chrono::milliseconds(20);
  Client client(gateway.target());
  const Error error = ErrorIn([&] { client.Watch(5, options).Finish(); });
  EXPECT_EQ(error.code, StatusCode::DEADLINE_EXCEEDED);
}

TEST(ClientTest, AnExceptionOfACallbackEndsTheWatch) {
  Gateway gateway;
  std::promise<void> cancelled;
  gateway.watch = [&](ServerContext* context, const v1::WatchJobRequest&,
                      Events* events) {
    events->Write(State(false));
    AwaitCancellation(*context);
    cancelled.set_value();
    return Status::OK;
  };
  CallOptions options;
  options.on_progress = [](const v1::Job&) {
    throw std::runtime_error("stop");
  };
  Watch watch = Client(gateway.target()).Watch(5, options);
  v1::JobEvent event;
  EXPECT_THROW(watch.Next(&event), std::runtime_error);
  cancelled.get_future().wait();  // although the watch still exists
  EXPECT_THROW(watch.Next(&event), std::runtime_error);
}

// A folder with a certificate, which is its own authority, and its key.
class Certificate {
 public:
  Certificate() {
    char name[] = "/tmp/jobgateway-cpp-XXXXXX";
    if (mkdtemp(name) == nullptr) throw std::runtime_error("no folder");
    folder_ = name;
    const std::string command =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        " -nodes -days 1 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
        " -keyout " +
        key() + " -out " + cert() + " 2> /dev/null";
    if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
  }
  ~Certificate() { std::filesystem::remove_all(folder_); }

  std::string cert() const { return folder_ + "/cert.pem"; }
  std::string key() const { return folder_ + "/key.pem"; }

 private:
  std::string folder_;
};

std::string Read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(TlsTest, MutualTls) {
  const Certificate certificate;
  grpc::SslServerCredentialsOptions server(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  server.pem_root_certs = Read(certificate.cert());
  server.pem_key_cert_pairs = {
      {Read(certificate.key()), Read(certificate.cert())}};
  Gateway gateway(grpc::SslServerCredentials(server));
  std::size_t identities = 0;
  gateway.get = [&](ServerContext* context, v1::Job* job) {
    identities = context->auth_context()->GetPeerIdentity().size();
    job->set_uid(5);
    return Status::OK;
  };
  Options options;
  options.credentials =
      TlsFromFiles(certificate.cert(), certificate.cert(), certificate.key());
  EXPECT_EQ(Client(gateway.target(), options).Get(5).uid(), 5);
  EXPECT_EQ(identities, 1U);
}

TEST(TlsTest, FilesThatCannotBeUsedAreRejected) {
  const Certificate one;
  const Certificate other;
  EXPECT_THROW(TlsFromFiles("/no/such/file"), std::invalid_argument);
  EXPECT_THROW(TlsFromFiles(one.key()), std::invalid_argument);
  EXPECT_THROW(TlsFromFiles(one.cert(), one.cert()), std::invalid_argument);
  EXPECT_THROW(TlsFromFiles("", one.key(), one.cert()), std::invalid_argument);
  EXPECT_THROW(TlsFromFiles("", one.cert(), other.key()),
               std::invalid_argument);
}

}  // namespace
}  // namespace jobgateway::testing
