//! Named points at which a test may stop whoever comes by, for ever: a participant that was killed there.
//!
//! `fault!(Name)` is nothing in normal builds. With the feature `faults` a thread that is [doomed](doom) ends at the
//! n-th point that it reaches: it sleeps and never wakes, which is all that others can see of a killed process, or the
//! whole process kills itself. In models the thread unwinds: no code between points has a destructor that matters.
#![forbid(unsafe_code)]

#[cfg(not(any(loom, feature = "faults")))]
macro_rules! fault {
    ($point:ident) => {};
}
#[cfg(any(loom, feature = "faults"))]
macro_rules! fault {
    ($point:ident) => {
        $crate::fault::reach(stringify!($point))
    };
}
pub(crate) use fault;

#[cfg(any(loom, feature = "faults"))]
pub use doomed::{Killed, doom, reach, until_killed};

#[cfg(any(loom, feature = "faults"))]
mod doomed {
    use core::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    #[cfg(loom)]
    use loom::thread_local;

    /// How many points a thread still passes, and what happens at the next one, of that name.
    type Fate = (u32, fn(&'static str));

    thread_local! {
        static DOOMED: Cell<Option<Fate>> = Cell::new(None);
    }

    /// What a doomed thread of a model unwinds with.
    #[derive(Debug)]
    pub struct Killed(
        /// The point where it ended.
        pub &'static str,
    );

    /// Does what a participant does who is killed at the point that it reaches after so many others: the thread unwinds
    /// from there to here.
    ///
    /// # Errors
    /// [`Killed`], if there is such a point.
    pub fn until_killed<T>(points: u32, action: impl FnOnce() -> T) -> Result<T, Killed> {
        doom(Some((points, |point| resume_unwind(Box::new(Killed(point))))));
        let result = catch_unwind(AssertUnwindSafe(action));
        doom(None);
        result.map_err(|reason| reason.downcast::<Killed>().map_or_else(|panic| resume_unwind(panic), |killed| *killed))
    }

    /// Ends this thread at the point that it reaches after so many others, by a call with that point's name. If that
    /// returns, the thread was only stopped, and goes on. None spares it. Gives what was left of an earlier doom.
    pub fn doom(fate: Option<Fate>) -> Option<u32> {
        DOOMED.with(|doomed| doomed.replace(fate)).map(|(left, _)| left)
    }

    /// The thread comes by a point.
    pub fn reach(point: &'static str) {
        match DOOMED.with(Cell::get) {
            None => {}
            Some((0, end)) => {
                DOOMED.with(|doomed| doomed.set(None));
                end(point);
            }
            Some((left, end)) => DOOMED.with(|doomed| doomed.set(Some((left - 1, end)))),
        }
    }
}
