use std::future::pending;

use tokio::time::timeout;

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

#[tokio::test(start_paused = true)]
async fn silence_continues_while_it_is_awaited_in_parts() {
    let mut silence = Silence::new(interval(1, 0));
    for _ in 0..2 {
        let tick = timeout(Duration::from_secs(1), silence.limit(pending::<()>()));
        assert!(tick.await.is_err());
        tokio::time::sleep(Duration::from_secs(60)).await; // the program does not read
    }
    let start = Instant::now();
    assert!(silence.limit(pending::<()>()).await.is_err());
    assert!(start.elapsed() <= Duration::from_millis(1_001));
    silence.end();
    let tick = timeout(Duration::from_secs(2), silence.limit(pending::<()>()));
    assert!(tick.await.is_err());
}

#[test]
fn an_absurd_wait_is_no_panic() {
    let now = Instant::now();
    assert!(after(now, Duration::MAX) > now);
}
