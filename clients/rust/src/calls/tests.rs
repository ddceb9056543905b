use std::error::Error as _;

use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::TokenError;
use crate::fake::{Call, Gateway};

fn done(result: &[u8]) -> Job {
    Job {
        uid: 7,
        done: true,
        content_size: result.len() as i64,
        result: Some(crate::pb::job::Result::ContentJson(result.into())),
        ..Default::default()
    }
}

fn respond(call: &mut Call, job: &Job) {
    let mut responses = call.respond();
    responses.send(job);
    responses.end(Status::ok(""));
}

fn wait(seconds: i64) -> WaitJobRequest {
    WaitJobRequest {
        uid: 7,
        timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_damaged_result_of_a_unary_call_is_an_error() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let call = client.get(GetJobRequest::default(), Hooks::default());
    let answer = async { respond(&mut gateway.call().await, &done(b"[1]")) };
    let (error, ()) = tokio::join!(call, answer);
    let Err(Error::Call(failure)) = error else {
        panic!("the damage was not noticed");
    };
    assert_eq!((failure.code, failure.uid()), (Code::DataLoss, Some(7)));
}

#[tokio::test]
async fn a_repeated_wait_has_the_rest_of_its_time() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let answer = async {
        gateway.call().await.fail(Status::unavailable("outage"));
        let mut call = gateway.call().await;
        let request: WaitJobRequest = call.request().await;
        assert!(request.timeout.unwrap().seconds < 3600);
        respond(&mut call, &Job::default());
    };
    let (job, ()) = tokio::join!(client.wait(wait(3600), Hooks::default()), answer);
    assert!(!job.unwrap().done);
}

#[test]
fn a_wait_outlasts_an_outage() {
    let outage = Failure::new(Code::Unavailable, "");
    let mut broken = Failure::new(Code::Internal, "");
    broken.reason = "UPSTREAM_ERROR".into();
    let attempts = [MAX_ATTEMPTS - 1, MAX_ATTEMPTS];
    let allows = |patience: Patience, failure| attempts.map(|n| patience.allows(n, failure));
    assert_eq!(allows(Patience::Attempts, &outage), [true, false]);
    assert_eq!(allows(Patience::Until(None), &outage), [true, true]);
    assert_eq!(allows(Patience::Until(None), &broken), [true, false]);
}

#[tokio::test]
async fn the_timeout_of_a_wait_has_the_last_failure_as_its_cause() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let answer = async {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3600)));
        let status = Status::with_error_details(Code::Unavailable, "outage", details);
        gateway.call().await.fail(status);
    };
    let (error, ()) = tokio::join!(client.wait(wait(60), Hooks::default()), answer);
    let error = error.unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "outage [Unavailable]");
    let Error::Call(failure) = error else {
        panic!("the login failed");
    };
    assert_eq!(failure.code, Code::DeadlineExceeded);
    assert_eq!(failure.cause.unwrap().message, "outage");
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_wait_limits_its_login() {
    let client = Client::builder("http://127.0.0.1:1")
        .login(std::future::pending::<Result<_, TokenError>>)
        .build()
        .unwrap();
    let begun = Instant::now();
    let Err(Error::Call(failure)) = client.wait(wait(10), Hooks::default()).await else {
        panic!("the login ended");
    };
    assert_eq!(failure.code, Code::DeadlineExceeded);
    assert!(failure.cause.is_none());
    assert_eq!(begun.elapsed().as_secs(), 10 + READ_LIMIT.as_secs());
}

#[tokio::test]
async fn an_absurd_timeout_is_no_panic() {
    let mut gateway = Gateway::start().await;
    let client = Client::new(&gateway.uri, "a").unwrap();
    let answer = async { gateway.call().await.fail(Status::not_found("no such job")) };
    let (error, ()) = tokio::join!(client.wait(wait(i64::MAX), Hooks::default()), answer);
    assert!(error.is_err());
}

#[tokio::test]
async fn a_send_is_not_repeated_after_a_failure_that_names_the_job() {
    let mut gateway = Gateway::start().await;
    let client = Client::builder(&gateway.uri)
        .login(async || Ok::<_, TokenError>(Some(rand::random::<u64>().to_string())))
        .build()
        .unwrap();
    let answer = async {
        let metadata = [("uid".to_owned(), "7".to_owned())];
        let details = ErrorDetails::with_error_info("TEST", "jobgateway", metadata);
        let status = Status::with_error_details(Code::Unauthenticated, "expired", details);
        gateway.call().await.fail(status);
    };
    let request = SendJobRequest::new("1", 7, "run", "{}");
    let (error, ()) = tokio::join!(client.send(request, Hooks::default()), answer);
    let Err(Error::Call(failure)) = error else {
        panic!("the job was sent");
    };
    assert_eq!(failure.uid(), Some(7));
    assert!(gateway.is_idle());
}
