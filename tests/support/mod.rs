//! What the tests of the engine share.

#![allow(dead_code, reason = "each program of tests uses some of it")]
#![allow(unsafe_code, reason = "system calls")]

pub(crate) mod photograph;

use std::panic::Location;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Ends the process with a message if it is not dropped in time: a test that hangs says which it is.
#[must_use]
pub(crate) struct Watchdog(#[expect(dead_code, reason = "its end is the signal")] Sender<()>);

/// Lets the calling test take so many seconds.
#[track_caller]
pub(crate) fn limit(seconds: u64) -> Watchdog {
    let place = Location::caller();
    let (alive, dropped) = channel();
    thread::spawn(move || {
        if dropped.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the test at {place} has not ended after {seconds} s");
            std::process::abort();
        }
    });
    Watchdog(alive)
}

/// Bytes that tell which message they are: `size` of them.
pub(crate) fn payload(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    for word in seed.. {
        if bytes.len() >= size {
            break;
        }
        bytes.extend_from_slice(&word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
