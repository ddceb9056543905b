// The decisions of the resuming watches, without calls.

#include "rules.h"

#include <gtest/gtest.h>
#include <jobgateway/error.h>

#include <chrono>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "errors.h"
#include "gateway.h"
#include "many_rules.h"
#include "result.h"

namespace jobgateway::testing {
namespace {

using grpc::StatusCode;
using internal::Backoff;
using internal::DamageOf;
using internal::ManyRules;
using internal::Silence;
using internal::StreamRules;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

Error Unavailable() { return {StatusCode::UNAVAILABLE, "a proxy died"}; }

TEST(SilenceTest, IsThreeIntervalsAndAtLeastThreeSeconds) {
  v1::WatchJobRequest request;
  EXPECT_EQ(Silence(request), seconds(45));
  const auto of = [&](std::int64_t interval) {
    request.mutable_heartbeat_interval()->set_seconds(interval);
    return Silence(request);
  };
  EXPECT_EQ(of(4), seconds(12));
  for (const std::int64_t interval :
       {std::int64_t{0}, std::int64_t{-1},
        std::numeric_limits<std::int64_t>::min()}) {
    EXPECT_EQ(of(interval), seconds(3));
  }
  EXPECT_GT(of(std::numeric_limits<std::int64_t>::max()), seconds(1));
}

TEST(BackoffTest, DoublesUpToFiveSeconds) {
  Backoff backoff;
  milliseconds bound(200);
  for (int attempt = 0; attempt < 8; ++attempt) {
    const nanoseconds wait = backoff.Next(Unavailable());
    EXPECT_GE(wait, bound / 2);
    EXPECT_LE(wait, bound);
    bound = std::min<milliseconds>(2 * bound, seconds(5));
  }
}

TEST(BackoffTest, WaitsAtLeastForTheRetryDelay) {
  Error error = Unavailable();
  error.retry_delay = seconds(60);
  EXPECT_EQ(Backoff().Next(error), seconds(60));
}

TEST(BackoffTest, BeginsAgainOnlyAfterFiveSeconds) {
  for (const bool worked : {false, true}) {
    Backoff backoff;
    for (int attempt = 0; attempt < 8; ++attempt) backoff.Next(Unavailable());
    backoff.Worked(steady_clock::now() - (worked ? seconds(6) : seconds(1)));
    EXPECT_EQ(backoff.Next(Unavailable()) <= milliseconds(200), worked);
  }
}

TEST(StreamRulesTest, AMessageOverTheLimitIsResumedOncePerToken) {
  const Error over_limit(StatusCode::RESOURCE_EXHAUSTED, "too large");
  StreamRules rules;
  rules.Opened();
  EXPECT_FALSE(rules.Resume(over_limit, false));
  rules.Heard(true, true);
  EXPECT_TRUE(rules.Resume(over_limit, false));
  rules.Heard(true, false);
  EXPECT_FALSE(rules.Resume(over_limit, false));
}

TEST(StreamRulesTest, ARejectedFreshTokenIsFinal) {
  const Error rejected(StatusCode::UNAUTHENTICATED, "no", "TOKEN_REJECTED");
  StreamRules rules;
  rules.Opened();
  EXPECT_TRUE(rules.WantsToken(rejected));
  EXPECT_TRUE(rules.Resume(rejected, true));
  EXPECT_FALSE(rules.WantsToken(rejected));
  rules.Heard(true, true);
  EXPECT_TRUE(rules.WantsToken(rejected));
}

TEST(StreamRulesTest, TheConnectionIsReplacedAfterSilenceAndProxies) {
  StreamRules rules;
  rules.Opened();
  EXPECT_TRUE(rules.Next(internal::SilentStream()).new_connection);
  EXPECT_TRUE(rules.Next(Unavailable()).new_connection);
  EXPECT_TRUE(
      rules.Next({StatusCode::UNAVAILABLE, "", "DRAINING"}).new_connection);
  EXPECT_FALSE(
      rules.Next({StatusCode::UNAVAILABLE, "", "NO_STATE_YET"}).new_connection);
}

ManyRules Opened() {
  v1::WatchJobRequest request;
  request.set_uid(5);
  ManyRules rules({request});
  rules.Opened();
  while (rules.NextRequest()) {
  }
  return rules;
}

v1::JobEvent Failure(StatusCode code, const std::string& reason) {
  v1::JobEvent event;
  event.set_uid(5);
  event.set_resume_token("token-2");
  event.mutable_failure()->set_code(code);
  event.mutable_failure()->set_reason(reason);
  return event;
}

TEST(ManyRulesTest, AFailureIsNoProgress) {
  const Error defect(StatusCode::INTERNAL, "", "GATEWAY_DEFECT");
  ManyRules rules = Opened();
  v1::JobEvent event = State(false);
  EXPECT_EQ(rules.Take(&event), ManyRules::Outcome::kShow);
  EXPECT_TRUE(rules.Resume(defect, false));
  event = Failure(StatusCode::UNAVAILABLE, "NO_STATE_YET");
  EXPECT_EQ(rules.Take(&event), ManyRules::Outcome::kAgain);
  EXPECT_FALSE(rules.Resume(defect, false));
}

TEST(ManyRulesTest, AWatchIsSentAgainAfterItsWait) {
  ManyRules rules = Opened();
  v1::JobEvent event = Failure(StatusCode::UNAVAILABLE, "NO_STATE_YET");
  event.mutable_failure()->mutable_retry_delay()->set_seconds(60);
  EXPECT_EQ(rules.Take(&event), ManyRules::Outcome::kAgain);
  EXPECT_GT(rules.WaitOf(5), seconds(59));
  EXPECT_FALSE(rules.NextRequest());
  EXPECT_EQ(rules.pending(), 1U);
}

TEST(ManyRulesTest, OtherFailuresEndTheWatchOfTheirJob) {
  ManyRules rules = Opened();
  v1::JobEvent event = Failure(StatusCode::ALREADY_EXISTS, "ALREADY_WATCHED");
  EXPECT_EQ(rules.Take(&event), ManyRules::Outcome::kIgnore);
  EXPECT_EQ(rules.pending(), 1U);
  event = Failure(StatusCode::NOT_FOUND, "JOB_NOT_FOUND");
  EXPECT_EQ(rules.Take(&event), ManyRules::Outcome::kShow);
  EXPECT_EQ(rules.pending(), 0U);
}

TEST(ManyRulesTest, ADamagedResultIsAFailureWithTheUid) {
  ManyRules rules = Opened();
  v1::JobEvent event = State(true);
  event.mutable_job()->set_content_size(2);
  EXPECT_EQ(rules.Take(&event), ManyRules::Outcome::kShow);
  const Error error = ErrorOf(event.failure());
  EXPECT_EQ(error.code, StatusCode::DATA_LOSS);
  EXPECT_EQ(error.uid(), 5);
}

TEST(DamageTest, TellsTheCasesApart) {
  v1::Job job;
  job.set_uid(7);
  job.set_content_size(10);
  job.set_content_sha256("wrong");
  const auto damage = [&](const std::string& chunks) {
    return DamageOf(job, chunks, true).value_or(Error(StatusCode::OK, "none"));
  };
  EXPECT_NE(damage("").message.find("nothing of it"), std::string::npos);
  EXPECT_NE(damage("12345").message.find("5 of 10 bytes"), std::string::npos);
  EXPECT_NE(damage("1234567890").message.find("SHA-256"), std::string::npos);
  EXPECT_EQ(damage("").uid(), 7);
  job.set_content_omitted(true);
  EXPECT_NE(damage("").message.find("nothing of it"), std::string::npos);
  EXPECT_FALSE(DamageOf(job, "", false));
  job.set_uid(0);
  EXPECT_EQ(damage("").message, "none");
}

TEST(ResultTest, AStreamDeliversResultsInEveryFormatButNone) {
  v1::JobEvent end = State(true);
  end.mutable_job()->set_content_size(2);
  end.mutable_job()->set_content_omitted(true);
  for (const auto format :
       {v1::CONTENT_FORMAT_UNSPECIFIED, v1::CONTENT_FORMAT_STRUCT,
        v1::CONTENT_FORMAT_JSON, v1::CONTENT_FORMAT_JSON_CHUNKS}) {
    EXPECT_TRUE(internal::Result(format).Take(end)) << format;
  }
  EXPECT_FALSE(internal::Result(v1::CONTENT_FORMAT_NONE).Take(end));
}

TEST(ErrorsTest, AllViolationsOfAFieldAreKept) {
  grpc::Status status = GatewayError(StatusCode::INVALID_ARGUMENT,
                                     "INVALID_REQUEST", "", {}, {"a", "b"});
  const Error error = internal::ErrorOf(status);
  ASSERT_EQ(error.fields.size(), 2U);
  EXPECT_EQ(error.fields[0].field, error.fields[1].field);
  EXPECT_EQ(error.fields[1].description, "b");
}

}  // namespace
}  // namespace jobgateway::testing
