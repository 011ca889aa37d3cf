//! `wait_any`: waiting for the first of several things, whatever they are.
//!
//! A shared type says in `handle.rs` what is waited for; an interpreter is waited for until it has ended. The kernel
//! can't wake a futex when a file descriptor is ready, so for these a thread of ours polls, and sets a flag for each:
//!
//! ```text
//!   the caller   poll, without waiting → any ready? → start ── wait_any ──→ write to the eventfd → join
//!   the thread                                         poll descriptors and eventfd → set flags → end
//! ```
//!
//! Each region has a bell of its own, and a thread sleeps at one. So for the things of every further region there is such
//! a thread, too: it waits for them there, sets the flag of the one that is ready, and ends; or is interrupted.

use core::ffi::c_int;
use core::time::Duration;
use std::fs::File;
use std::io::{Error, Result as IoResult, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use multigil::error::WaitError;
use multigil::event::{self, Bell, Parker, Patience, Watchable};
use multigil::flag::Flag;
use pyo3::ffi;

use crate::alarm::eventfd;
use crate::handle::{self, Thing, Watched};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::{Place, State};
use crate::wait::{self, Subject};
use crate::{errors, interpreter};

/// `wait_any(*objects, timeout=None)`.
pub(crate) unsafe extern "C" fn wait_any(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let objects = core::slice::from_raw_parts(values, count as usize);
        let [timeout] = Arguments::new(values.add(objects.len()), 0, names).parse("wait_any", [c"timeout"], 0)?;
        if objects.is_empty() {
            return raise(ffi::PyExc_ValueError, "wait_any() needs something to wait for");
        }
        let first = first_ready(state, objects, wait::join_timeout(timeout)?)?;
        Ok(first.map_or_else(|| Owned::none(), |place| Owned::from_borrowed(objects[place])))
    })
}

unsafe fn first_ready(
    state: &'static State,
    objects: &[*mut ffi::PyObject],
    deadline: Option<Instant>,
) -> Result<Option<usize>> {
    let home = state.home();
    let mut descriptors = Descriptors::default();
    let mut things = Vec::with_capacity(objects.len());
    for object in objects {
        things.push(thing(state, *object, &mut descriptors)?);
    }
    // Where this thread sleeps. What has no place of its own rings the bell of the process's region.
    let place = things.iter().map(|watched| watched.place).min_by_key(Option::is_some).flatten().unwrap_or(home);
    let bell = place.region.bell();
    descriptors.check(bell).or_else(|error| errors::system(&error))?;
    let ready = things.iter().position(|watched| watched.thing.is_ready());
    if ready.is_some() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return Ok(ready);
    }
    let _poller = descriptors.start(place)?;
    let (things, outposts) = split(things, place);
    let _outposts = outposts.into_iter().map(|outpost| outpost.start(place)).collect::<Result<Vec<_>>>()?;
    let things: Vec<&dyn Watchable> = things.iter().map(|thing| &**thing as &dyn Watchable).collect();
    let result = wait::wait(
        state,
        Subject::Several,
        deadline,
        |patience| event::wait_any(&things, bell, patience),
        |error| *error == WaitError::Interrupted,
    )?;
    Ok(result.ok())
}

/// What is waited for when an object is.
unsafe fn thing(state: &'static State, object: *mut ffi::PyObject, descriptors: &mut Descriptors) -> Result<Watched> {
    if let Some(watch) = handle::watch_of(state, object) {
        return Ok(watch(object));
    }
    if let Some(awaited) = interpreter::awaited(object)? {
        // It is the interpreter's, which stays as long as this call.
        if let Some(watch) = handle::watch_of(state, awaited.as_ptr()) {
            return Ok(watch(awaited.as_ptr()));
        }
        return Ok(Watched { thing: Box::new(interpreter::ending(state, &awaited)?), place: None });
    }
    let has_descriptor = || ffi::PyObject_HasAttrString(object, c"fileno".as_ptr()) != 0;
    let is_kind_of_ours = ffi::PyType_Check(object) != 0 || handle::is_of_shared_type(state, object);
    if ffi::PyLong_Check(object) == 0 && (is_kind_of_ours || !has_descriptor()) {
        let kinds = "queues, locks, events, semaphores, interpreters and file descriptors";
        let class = Owned::from_raw(ffi::PyType_GetName(ffi::Py_TYPE(object)))?;
        let format = c"wait_any() waits for %s, not for '%U'";
        ffi::PyErr_Format(ffi::PyExc_TypeError, format.as_ptr(), format!("{kinds}\0").as_ptr(), class.as_ptr());
        return Err(Raised);
    }
    match ffi::PyObject_AsFileDescriptor(object) {
        ..0 => Err(Raised),
        descriptor => Ok(Watched { thing: Box::new(descriptors.add(descriptor)), place: Some(state.home()) }),
    }
}

/// File descriptors, each with a flag that is set when it is ready: a read would not wait, or fail.
#[derive(Debug, Default)]
struct Descriptors(Vec<(c_int, Arc<Flag>)>);

impl Descriptors {
    fn add(&mut self, descriptor: c_int) -> Arc<Flag> {
        let flag = Arc::new(Flag::default());
        self.0.push((descriptor, Arc::clone(&flag)));
        flag
    }

    /// Sets the flags of those that are ready now. One that is not open is an error.
    fn check(&self, bell: &Bell) -> IoResult<()> {
        let events = self.poll(None)?;
        if events.iter().any(|events| events & libc::POLLNVAL != 0) {
            return Err(Error::from_raw_os_error(libc::EBADF));
        }
        self.set_flags(&events, bell);
        Ok(())
    }

    fn set_flags(&self, events: &[i16], bell: &Bell) {
        self.0.iter().zip(events).filter(|(_, events)| **events != 0).for_each(|((_, flag), _)| flag.set(bell));
    }

    /// What has happened to each; with `cancel`, as soon as something has, or that one is ready.
    fn poll(&self, cancel: Option<&File>) -> IoResult<Vec<i16>> {
        let cancel_descriptor = cancel.map(AsRawFd::as_raw_fd);
        let descriptors = self.0.iter().map(|(descriptor, _)| *descriptor).chain(cancel_descriptor);
        let mut polled: Vec<_> = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        let timeout = if cancel.is_some() { -1 } else { 0 };
        loop {
            // SAFETY: the kernel writes to the entries of a live vector.
            if unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) } >= 0 {
                return Ok(polled.iter().map(|entry| entry.revents).collect());
            }
            let error = Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINTR) {
                return Err(error);
            }
        }
    }

    /// Sets the flags of those that become ready first, on a thread of its own; None if there are no descriptors.
    unsafe fn start(self, place: Place) -> Result<Option<Helper>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (ours, theirs) = match eventfd(0).and_then(|cancel| Ok((cancel.try_clone()?, cancel))) {
            Ok(both) => both,
            Err(error) => return errors::system(&error),
        };
        let run = move || match self.poll(Some(&theirs)) {
            Ok(events) => self.set_flags(&events, place.region.bell()),
            // The kernel is out of memory: a wait that ends for nothing is better than one that never ends.
            Err(_) => self.0.iter().for_each(|(_, flag)| flag.set(place.region.bell())),
        };
        let stop = move || {
            let _ = (&ours).write_all(&1_u64.to_ne_bytes()); // an eventfd takes the first one
        };
        Helper::start(run, stop).map(Some)
    }
}

/// The things of a region at whose bell the caller does not sleep, each with a flag to be set when it is ready.
struct Outpost {
    place: Place,
    things: Vec<(Thing, Arc<Flag>)>,
}

/// What the caller waits for itself, and what others wait for.
fn split(watched: Vec<Watched>, here: Place) -> (Vec<Thing>, Vec<Outpost>) {
    let mut outposts: Vec<Outpost> = Vec::new();
    let things = watched.into_iter().map(|Watched { thing, place }| {
        let Some(place) = place.filter(|place| !core::ptr::eq(place.region, here.region)) else { return thing };
        let flag = Arc::new(Flag::default());
        let entry = (thing, Arc::clone(&flag));
        match outposts.iter_mut().find(|outpost| core::ptr::eq(outpost.place.region, place.region)) {
            Some(outpost) => outpost.things.push(entry),
            None => outposts.push(Outpost { place, things: vec![entry] }),
        }
        Box::new(flag)
    });
    (things.collect(), outposts)
}

impl Outpost {
    /// Waits for the first of the things on a thread of its own, and sets its flag.
    unsafe fn start(self, caller: Place) -> Result<Helper> {
        let parker = Arc::new(Parker::default());
        let theirs = Arc::clone(&parker);
        let run = move || {
            let things: Vec<&dyn Watchable> = self.things.iter().map(|(thing, _)| &**thing as &dyn Watchable).collect();
            let patience = Patience::new(None, Duration::ZERO, &theirs).watching(&self.place);
            loop {
                match event::wait_any(&things, self.place.region.bell(), &patience) {
                    Ok(ready) => return self.things[ready].1.set(caller.region.bell()),
                    Err(_) if theirs.take_interrupt() => return,
                    Err(_) => {} // a signal
                }
            }
        };
        Helper::start(run, move || parker.interrupt())
    }
}

/// A thread that waits beside the caller. It is stopped when this is dropped.
struct Helper {
    stop: Box<dyn Fn()>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    unsafe fn start(run: impl FnOnce() + Send + 'static, stop: impl Fn() + 'static) -> Result<Helper> {
        match std::thread::Builder::new().name("multigil-wait".to_owned()).spawn(run) {
            Ok(thread) => Ok(Helper { stop: Box::new(stop), thread: Some(thread) }),
            Err(error) => raise(ffi::PyExc_RuntimeError, &format!("can't start new thread: {error}")),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        (self.stop)();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it never panics, and never waits for a GIL
        }
    }
}
