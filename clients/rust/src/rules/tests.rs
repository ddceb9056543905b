use std::future::pending;

use futures_util::FutureExt;

use super::*;

fn interval(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

#[test]
fn silence_is_three_intervals_and_at_least_three_seconds() {
    let cases = [
        (None, 45),
        (interval(2, 0), 6),
        (interval(0, 0), 3),
        (interval(-1, 0), 3),
        (interval(0, 1), 3),
    ];
    for (interval, seconds) in cases {
        assert_eq!(Silence::new(interval).limit, Duration::from_secs(seconds));
    }
    assert!(Silence::new(interval(i64::MAX, 0)).limit > Duration::from_secs(1 << 60));
}

#[tokio::test]
async fn silence_continues_while_it_is_awaited_in_parts() {
    let mut silence = Silence::new(interval(1, 0));
    let mut spent = Duration::ZERO;
    for _ in 0..3 {
        while silence.spent == spent {
            assert!(silence.limit(pending::<()>()).now_or_never().is_none());
        }
        assert!(silence.spent > spent);
        spent = silence.spent;
    }
    silence.spent = silence.limit;
    assert!(silence.limit(pending::<()>()).await.is_err());
    silence.end();
    assert!(silence.limit(pending::<()>()).now_or_never().is_none());
}

#[test]
fn an_absurd_wait_is_no_panic() {
    let now = Instant::now();
    assert!(after(now, Duration::MAX) > now);
}

fn failure(code: Code, reason: &str) -> Failure {
    Failure {
        reason: reason.into(),
        ..Failure::new(code, "")
    }
}

#[test]
fn a_stream_is_resumed_by_the_table() {
    // Code, reason, and whether the watch continues before and after its first event.
    let cases = [
        (Code::Unavailable, "", true, true),
        (Code::Unavailable, "DRAINING", true, true),
        (Code::Internal, "GATEWAY_DEFECT", false, false),
        (Code::NotFound, "JOB_NOT_FOUND", false, false),
        (Code::Internal, "", true, true),
        (Code::Unknown, "", true, true),
        (Code::Cancelled, "", true, true),
        (Code::Cancelled, SILENT, true, true),
        (Code::DeadlineExceeded, "", true, true),
        (Code::Ok, "", true, true),
        (Code::OutOfRange, "", false, true),
        (Code::ResourceExhausted, "", false, true),
        (Code::ResourceExhausted, "LIMIT_REACHED", false, false),
        (Code::Unimplemented, "", false, true),
        (Code::Unauthenticated, "", false, true),
        (Code::Unauthenticated, "TOKEN_REJECTED", false, false),
    ];
    for (code, reason, before, after) in cases {
        let mut rules = StreamRules::new();
        let outcome = rules.resume(failure(code, reason), 0, false);
        assert_eq!(outcome.is_ok(), before, "{code:?} {reason}");
        rules.heard(Instant::now(), true);
        let outcome = rules.resume(failure(code, reason), 1, false);
        assert_eq!(outcome.is_ok(), after, "{code:?} {reason}");
    }
    let mut limited = failure(Code::ResourceExhausted, "LIMIT_REACHED");
    limited.retry_after = Some(Duration::ZERO);
    assert!(StreamRules::new().resume(limited, 0, false).is_ok());
}

#[test]
fn a_message_over_the_limit_is_received_once_per_position() {
    let mut rules = StreamRules::new();
    rules.heard(Instant::now(), true);
    let mut resumes = |position| {
        let outcome = rules.resume(failure(Code::OutOfRange, ""), position, false);
        outcome.is_ok()
    };
    assert_eq!([1, 1, 2].map(&mut resumes), [true, false, true]);
}

#[test]
fn a_fresh_token_is_wanted_again_after_it_was_proven() {
    let rejected = failure(Code::Unauthenticated, "TOKEN_REJECTED");
    let mut rules = StreamRules::new();
    assert!(rules.wants_token(&rejected));
    assert!(rules.resume(rejected.clone(), 0, true).is_ok());
    rules.heard(Instant::now(), false);
    assert!(!rules.wants_token(&rejected));
    rules.heard(Instant::now(), true);
    assert!(rules.wants_token(&rejected));
}

#[test]
fn a_new_connection_follows_a_broken_one() {
    let retry = |code, reason| Retry::new(failure(code, reason), &mut Backoff::default());
    assert!(retry(Code::Unavailable, "").new_connection);
    assert!(retry(Code::Cancelled, SILENT).new_connection);
    assert!(retry(Code::Unavailable, "DRAINING").new_connection);
    assert!(!retry(Code::Unavailable, "LIMIT_REACHED").new_connection);
}

#[test]
fn waits_double_up_to_five_seconds_and_begin_again() {
    let mut backoff = Backoff::default();
    let broken = failure(Code::Unavailable, "");
    for bound in [200, 400, 800, 1600, 3200, 5000, 5000] {
        let wait = backoff.next(&broken);
        let bound = Duration::from_millis(bound);
        assert!(bound / 2 <= wait && wait < bound, "{wait:?} {bound:?}");
    }
    let start = Instant::now();
    backoff.heard(start, start + MAX_BACKOFF);
    assert!(backoff.next(&broken) > Duration::from_secs(2));
    backoff.heard(start, start + MAX_BACKOFF + Duration::from_millis(1));
    assert!(backoff.next(&broken) < Duration::from_millis(200));
    let mut asking = broken;
    asking.retry_after = Some(Duration::from_secs(60));
    assert_eq!(backoff.next(&asking), Duration::from_secs(60));
}

#[test]
fn an_event_proves_a_token_if_the_upstream_was_read() {
    let heartbeat = |observed: bool, last_failure: &str| JobEvent {
        payload: Some(Payload::Heartbeat(crate::pb::Heartbeat {
            observe_time: observed.then(Default::default),
            last_failure: last_failure.into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    assert!(proves_token(&heartbeat(true, "")));
    assert!(!proves_token(&heartbeat(false, "")));
    assert!(!proves_token(&heartbeat(true, "rejected")));
    let state = JobEvent {
        payload: Some(Payload::Job(Default::default())),
        ..Default::default()
    };
    assert!(proves_token(&state));
}
