use super::*;
use crate::pb::{ContentChunk, ContentFormat, Job, Synced, WatchFailure};

fn rules(uids: &[i64], now: Instant) -> ManyRules {
    let requests = uids.iter().map(|&uid| WatchJobRequest {
        uid,
        ..Default::default()
    });
    let mut rules = ManyRules::new(requests.collect(), now);
    open(&mut rules, now);
    rules
}

/// Opens a stream, and returns the jobs of the requests that are due.
fn open(rules: &mut ManyRules, now: Instant) -> Vec<i64> {
    rules.open(now);
    due(rules, now)
}

fn due(rules: &mut ManyRules, now: Instant) -> Vec<i64> {
    let requests = std::iter::from_fn(|| rules.next(now));
    let mut uids: Vec<_> = requests
        .map(|request| match request.action {
            Some(Action::Watch(request)) => request.uid,
            _ => 0,
        })
        .collect();
    uids.sort();
    uids
}

fn event(uid: i64, payload: Payload) -> JobEvent {
    JobEvent {
        uid,
        payload: Some(payload),
        ..Default::default()
    }
}

fn failed(uid: i64, code: Code, reason: &str) -> JobEvent {
    let failure = WatchFailure {
        code: code.into(),
        reason: reason.into(),
        ..Default::default()
    };
    event(uid, Payload::Failure(failure))
}

fn done(uid: i64) -> JobEvent {
    event(
        uid,
        Payload::Job(Job {
            uid,
            done: true,
            ..Default::default()
        }),
    )
}

#[test]
fn a_transient_failure_of_a_job_is_repeated_on_the_stream() {
    let now = Instant::now();
    let mut rules = rules(&[1, 2], now);
    let outcome = rules.take(failed(1, Code::Unavailable, "UPSTREAM_UNAVAILABLE"), now);
    let Outcome::Again(retry) = outcome else {
        panic!("the job is not watched again");
    };
    assert_eq!((retry.uid, retry.jobs), (Some(1), 2));
    assert!(due(&mut rules, now).is_empty());
    assert_eq!(due(&mut rules, now + retry.wait), [1]);
}

#[test]
fn a_final_failure_ends_one_job() {
    let now = Instant::now();
    let mut rules = rules(&[1, 2], now);
    let outcome = rules.take(failed(1, Code::NotFound, "JOB_NOT_FOUND"), now);
    assert!(matches!(
        outcome,
        Outcome::Item(Item::Failed { uid: 1, .. })
    ));
    let late = rules.take(done(1), now);
    assert!(matches!(late, Outcome::Nothing));
    assert_eq!(rules.pending(), 1);
    let ignored = rules.take(failed(2, Code::AlreadyExists, ALREADY_WATCHED), now);
    assert!(matches!(ignored, Outcome::Nothing));
    assert_eq!(open(&mut rules, now), [2]);
}

#[test]
fn a_stream_waits_for_its_first_job() {
    let now = Instant::now();
    let mut rules = rules(&[1], now);
    let Outcome::Again(again) = rules.take(failed(1, Code::Unavailable, "FULL"), now) else {
        panic!("the job is not watched again");
    };
    let broken = Failure::new(Code::Unavailable, "");
    let retry = rules.resume(broken, now, false).unwrap();
    assert!(retry.wait >= again.wait);
}

#[test]
fn a_defect_is_repeated_once_per_progress() {
    let now = Instant::now();
    let mut rules = rules(&[1], now);
    let mut defect = Failure::new(Code::Internal, "");
    defect.reason = DEFECT.into();
    assert!(rules.resume(defect.clone(), now, false).is_ok());
    // A failure event is no progress, even with a token.
    let mut failure = failed(1, Code::Unavailable, "FULL");
    failure.resume_token = "a".into();
    rules.take(failure, now);
    assert!(rules.resume(defect.clone(), now, false).is_err());
    let mut progress = event(1, Payload::Job(Job::default()));
    progress.resume_token = "b".into();
    rules.take(progress, now);
    assert!(rules.resume(defect, now, false).is_ok());
}

#[test]
fn a_fresh_token_is_proven_for_each_job() {
    let now = Instant::now();
    let mut rules = rules(&[1, 2, 3], now);
    let rejected = |uid| failed(uid, Code::Unauthenticated, "TOKEN_REJECTED");
    let Outcome::LogIn { failure, .. } = rules.take(rejected(1), now) else {
        panic!("no login");
    };
    rules.resume_with_token(failure, now);
    open(&mut rules, now);
    rules.take(event(1, Payload::Job(Job::default())), now);
    assert!(matches!(
        rules.take(rejected(1), now),
        Outcome::LogIn { .. }
    ));
    let unproven = rules.take(rejected(2), now);
    assert!(matches!(
        unproven,
        Outcome::Item(Item::Failed { uid: 2, .. })
    ));
    let synced = |watch_requests| Payload::Synced(Synced { watch_requests });
    rules.take(event(0, synced(3)), now);
    assert!(matches!(
        rules.take(rejected(3), now),
        Outcome::LogIn { .. }
    ));
}

#[test]
fn a_login_without_a_token_is_not_repeated_on_a_stream() {
    let now = Instant::now();
    let mut rules = rules(&[1, 2], now);
    let rejected = |uid| failed(uid, Code::Unauthenticated, "TOKEN_REJECTED");
    let Outcome::LogIn { uid, failure } = rules.take(rejected(1), now) else {
        panic!("no login");
    };
    rules.without_login(uid, failure, now);
    let other = rules.take(rejected(2), now);
    assert!(matches!(other, Outcome::Item(Item::Failed { uid: 2, .. })));
}

#[test]
fn a_damaged_result_fails_its_job() {
    let now = Instant::now();
    let mut rules = rules(&[1], now);
    let chunk = ContentChunk {
        data: b"[1".into(),
        ..Default::default()
    };
    rules.take(event(1, Payload::ContentChunk(chunk)), now);
    let mut end = done(1);
    if let Some(Payload::Job(job)) = &mut end.payload {
        job.content_size = 3;
    }
    let Outcome::Item(Item::Failed { failure, .. }) = rules.take(end, now) else {
        panic!("the damage was not noticed");
    };
    assert_eq!(failure.code, Code::DataLoss);
    assert_eq!(rules.result(1).unwrap().chunks, b"[1");
    rules.release();
    assert!(rules.result(1).is_none());
}

#[test]
fn a_result_of_which_nothing_arrived_fails_its_job() {
    let now = Instant::now();
    for (format, damaged) in [
        (ContentFormat::Unspecified, true),
        (ContentFormat::None, false),
    ] {
        let mut request = WatchJobRequest {
            uid: 1,
            ..Default::default()
        };
        request.set_content_format(format);
        let mut rules = ManyRules::new(vec![request], now);
        open(&mut rules, now);
        let mut end = done(1);
        if let Some(Payload::Job(job)) = &mut end.payload {
            (job.content_omitted, job.content_size) = (true, 3);
        }
        let failed = matches!(
            rules.take(end, now), Outcome::Item(Item::Failed { failure, .. }) if failure.code == Code::DataLoss
        );
        assert_eq!(failed, damaged, "{format:?}");
    }
}

#[test]
fn an_absurd_wait_of_a_job_is_no_panic() {
    let now = Instant::now();
    let mut rules = rules(&[1], now);
    let mut event = failed(1, Code::Unavailable, "FULL");
    if let Some(Payload::Failure(failure)) = &mut event.payload {
        failure.retry_delay = Some(prost_types::Duration {
            seconds: i64::MAX,
            nanos: 0,
        });
    }
    assert!(matches!(rules.take(event, now), Outcome::Again(_)));
    assert!(due(&mut rules, now).is_empty());
}
