//! The engine's protocols as theorems, each checked in every interleaving and with every value that the memory model
//! lets a load return, up to three preemptions (fewer where three would take minutes).
//!
//! A theorem has *twins*: the same model without one part of the protocol (`multigil::model`), which must fail. So
//! the model can see what that part is for, and the part is there for a reason.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --test loom
//! ```
//! `LOOM_MAX_PREEMPTIONS` lowers the bound. Loom does not explore loads that are delayed past later stores; words that
//! only one thread at a time may touch make up for it, since they fail on any two accesses that are not ordered.
#![cfg(loom)]
#![expect(clippy::disallowed_types, reason = "what counts the interleavings is not part of them")]

mod barrier;
mod event;
mod flag;
mod journal;
mod lock;
mod memory;
mod ring;
mod semaphore;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use multigil::fault::until_killed;
use multigil::layout::PeerId;
use multigil::model::{Part, without};

/// Checks a model in all its interleavings with at most so many preemptions.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.map_or(preemptions, |bound| bound.min(preemptions)));
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    println!("{} interleavings", runs.load(Relaxed));
    assert!(runs.load(Relaxed) > 1, "one interleaving shows nothing");
}

/// Checks a model once for every point where a participant of it may be killed. The model gets the point's number and
/// says whether that one is reached.
fn check_deaths(preemptions: usize, model: impl Fn(u32) -> bool + Send + Sync + 'static) {
    let model = Arc::new(model);
    for point in 0.. {
        let is_reached = Arc::new(AtomicBool::new(false));
        let (model, reached) = (model.clone(), is_reached.clone());
        check(preemptions, move || {
            if model(point) {
                reached.store(true, Relaxed);
            }
        });
        if !is_reached.load(Relaxed) {
            assert!(point > 0, "there are points");
            return;
        }
    }
}

/// Runs what a participant does who is killed at the point that it reaches after so many others; None if it is.
///
/// Words that are modified while a thread unwinds stay as they are (see `multigil::model`), but no more than that: it is
/// not for what has destructors that do other things.
fn die_at<T>(points: u32, action: impl FnOnce() -> T) -> Option<T> {
    until_killed(points, action).ok()
}

/// Checks a model without a part of the protocol; it is expected to fail.
fn twin(preemptions: usize, part: Part, model: fn()) {
    without(part, || check(preemptions, model));
}

fn me() -> PeerId {
    PeerId::new(1).unwrap()
}

/// Another participant, which dies.
fn dead() -> PeerId {
    PeerId::new(2).unwrap()
}
