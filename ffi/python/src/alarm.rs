//! Readiness as the kernel knows it: `fileno()`, and [`Alarm`]s, of which each event loop has one.
//!
//! An alarm is an eventfd and the numbers of the watches that went off. A *watch* looks at one thing, once: when that may
//! be ready, the watch rings its alarm and is gone. Nobody makes a system call for it while nothing happens.
//!
//! ```text
//!   arm       look: ready? → say so          else: among the watches ── sets WATCHED, as wait_any does
//!   a change  WATCHED → the region's bell ──→ the thread of the region: looks at all watches → writes to the eventfd
//!   the loop  reads the eventfd, takes the numbers, wakes those who wait
//! ```
//!
//! Each region in which there are watches has one thread, `multigil-bell`, for all interpreters and loops. It has no need
//! of Python, looks out for the dead as whoever waits does, and ends when there was nothing to watch for a while.
//!
//! What a thread arms, another one sleeps for. That it hears of every change is [`Bell::wait_until`]'s promise, because
//! both look under one lock: that of [`POSTS`]. Whoever holds it waits for no GIL.
//!
//! An object's watches go with the object, and point into its region, not into Python's memory: should an interpreter
//! end without freeing its objects, then they stay in the region, too, as does the region itself.
//!
//! [`Bell::wait_until`]: multigil::event::Bell::wait_until

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr::null_mut;
use core::time::Duration;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, Read, Result as IoResult, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use multigil::event::{Lookout, Parker, Patience};
use multigil::object::Region;
use multigil::queue::Queue;
use parking_lot::Mutex;
use pyo3::ffi;

use crate::handle::{self, HandleObject, Thing, Watched};
use crate::py::{self, Arguments, Owned, Result, raise};
use crate::state::{Place, State};
use crate::{errors, event, interpreter, queue};

/// An eventfd, and which watches made it readable.
#[derive(Debug)]
pub(crate) struct Alarm {
    descriptor: File,
    rung: Mutex<Vec<u64>>,
}

impl Alarm {
    fn new() -> IoResult<Alarm> {
        Ok(Alarm { descriptor: eventfd(0)?, rung: Mutex::default() })
    }

    /// Makes it readable.
    fn ring(&self, number: u64) {
        let mut rung = self.rung.lock();
        rung.push(number);
        if rung.len() == 1 {
            let _ = (&self.descriptor).write(&1_u64.to_ne_bytes()); // it is 0, so there is room
        }
    }

    /// Makes it unreadable again; what made it readable.
    fn take(&self) -> Vec<u64> {
        let mut rung = self.rung.lock();
        if !rung.is_empty() {
            let _ = (&self.descriptor).read(&mut [0; 8]); // a forked child's parent may have read it
        }
        mem::take(&mut *rung)
    }

    /// In a forked child: one of its own, behind the same descriptor, in place of the one that it has from its parent.
    fn renewed(&self) -> IoResult<Alarm> {
        let fresh = eventfd(1)?; // it is readable: what it waited for may have come meanwhile
        // SAFETY: both are open. The file of the parent's alarm, which is never dropped here, was the only owner.
        let descriptor = unsafe {
            if libc::dup3(fresh.as_raw_fd(), self.descriptor.as_raw_fd(), libc::O_CLOEXEC) < 0 {
                return Err(Error::last_os_error());
            }
            File::from_raw_fd(self.descriptor.as_raw_fd())
        };
        Ok(Alarm { descriptor, rung: Mutex::new(vec![ITSELF]) })
    }
}

/// The alarms of an interpreter's loops: who sleeps there can be woken for another reason.
#[derive(Debug, Default)]
pub(crate) struct Loops(Mutex<Vec<Weak<Alarm>>>);

impl Loops {
    fn add(&self, alarm: &Arc<Alarm>) {
        let mut alarms = self.0.lock();
        alarms.retain(|alarm| alarm.strong_count() > 0);
        alarms.push(Arc::downgrade(alarm));
    }

    /// Has all loops go round once: a thread that an asynchronous exception was set for may sleep in one.
    pub(crate) fn wake(&self) {
        self.0.lock().iter().filter_map(Weak::upgrade).for_each(|alarm| alarm.ring(NOBODY));
    }
}

/// An eventfd from which nobody waits to read.
pub(crate) fn eventfd(value: u32) -> IoResult<File> {
    // SAFETY: the call has no preconditions.
    match unsafe { libc::eventfd(value, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) } {
        ..0 => Err(Error::last_os_error()),
        // SAFETY: it was just opened, and nobody else has it.
        descriptor => Ok(unsafe { File::from_raw_fd(descriptor) }),
    }
}

/// The number of the only watch of an alarm that is an object's `fileno()`.
const ITSELF: u64 = 0;

/// A number that no watch of a loop's has.
const NOBODY: u64 = 0;

/// Looks at a thing until it may be ready.
struct Watch {
    thing: Thing,
    /// Whose thing it is; null if it keeps itself alive.
    object: usize,
    alarm: Arc<Alarm>,
    number: u64,
    /// Who looks out for the dead meanwhile: somebody who takes part as long as the watch is there.
    place: Place,
}

/// A watch's name: its alarm's address, and its number there.
type Name = (usize, u64);

/// The watches in a region, and the thread that looks at them.
struct Post {
    region: &'static Region,
    watches: HashMap<Name, Watch>,
    parker: Arc<Parker>,
    /// None if the thread has ended or is about to, with nothing left to do.
    thread: Option<JoinHandle<()>>,
}

/// One for each region in which anything was ever watched, as long as it is open.
static POSTS: Mutex<Vec<Post>> = Mutex::new(Vec::new());

fn post_of<'p>(posts: &'p mut [Post], region: &Region) -> Option<&'p mut Post> {
    posts.iter_mut().find(|post| core::ptr::eq(post.region, region))
}

/// Adds a watch, in place of one of the same name. False, and none is there, if the thing is ready.
fn arm(watch: Watch) -> IoResult<bool> {
    let mut posts = POSTS.lock();
    let region = watch.place.region;
    let at = posts.iter().position(|post| core::ptr::eq(post.region, region)).unwrap_or_else(|| {
        posts.push(Post { region, watches: HashMap::new(), parker: Arc::default(), thread: None });
        posts.len() - 1
    });
    let post = &mut posts[at];
    let name = (Arc::as_ptr(&watch.alarm).addr(), watch.number);
    if watch.thing.look() {
        post.watches.remove(&name);
        return Ok(false);
    }
    if post.thread.is_none() {
        let parker = Arc::clone(&post.parker);
        let thread = std::thread::Builder::new().name("multigil-bell".to_owned());
        post.thread = Some(thread.spawn(move || keep_watch(region, &parker))?);
    }
    post.watches.insert(name, watch);
    Ok(true)
}

/// Takes away the watches of which that is so.
fn disarm(is_meant: impl Fn(&Name, &Watch) -> bool) {
    let mut posts = POSTS.lock();
    posts.iter_mut().for_each(|post| post.watches.retain(|name, watch| !is_meant(name, watch)));
}

/// What the thread of a region does.
fn keep_watch(region: &'static Region, parker: &Parker) {
    let rounds = Rounds { region, idle: Cell::new(false) };
    let patience = Patience::new(None, Duration::ZERO, parker).watching(&rounds);
    loop {
        match region.bell().wait_until(&patience, || rounds.look()) {
            Ok(()) => return,
            Err(_) if parker.take_interrupt() => return, // the region may be closed any time
            Err(_) => {}                                 // a signal
        }
    }
}

#[derive(Debug)]
struct Rounds {
    region: &'static Region,
    /// There was nothing to watch when it was time to look out.
    idle: Cell<bool>,
}

impl Rounds {
    /// Looks at all watches; gives something when the thread is not needed any more.
    fn look(&self) -> Option<()> {
        let mut posts = POSTS.lock();
        let post = post_of(&mut posts, self.region)?; // without one, it is interrupted
        post.watches.retain(|_, watch| {
            let is_ready = watch.thing.look();
            if is_ready {
                watch.alarm.ring(watch.number);
            }
            !is_ready
        });
        if !self.idle.take() || !post.watches.is_empty() {
            return None;
        }
        post.thread = None;
        Some(())
    }
}

impl Lookout for Rounds {
    fn look_out(&self) {
        let mut posts = POSTS.lock();
        // The lock is kept, so the one who looks out does not leave meanwhile.
        let watch = post_of(&mut posts, self.region).and_then(|post| post.watches.values().next());
        match watch {
            Some(watch) => watch.place.look_out(),
            None => self.idle.set(true),
        }
    }
}

/// An object is about to go, and its region perhaps with it.
pub(crate) fn object_goes(state: &State, object: *mut ffi::PyObject, place: Place) {
    let mut posts = POSTS.lock();
    let Some(at) = posts.iter().position(|post| core::ptr::eq(post.region, place.region)) else { return };
    posts[at].watches.retain(|_, watch| watch.object != object.addr());
    if posts[at].watches.is_empty() && !state.is_home(place.region) {
        // The thread sleeps on a word of the region.
        let post = posts.swap_remove(at);
        drop(posts);
        if let Some(thread) = post.thread {
            post.parker.interrupt();
            let _ = thread.join(); // it never panics, and never waits for a GIL
        }
    }
}

/// In a forked child, which has none of these threads: the watches are the parent's.
pub(crate) fn forget_watches() {
    // SAFETY: nobody else is here. Whoever had it locked has stayed with the parent.
    unsafe { (&raw const POSTS).cast_mut().write(Mutex::new(Vec::new())) };
}

/// In a forked child: an object's descriptor becomes the child's own. It is readable, so that whoever uses it looks.
pub(crate) unsafe fn become_own(object: *mut ffi::PyObject) {
    let slot = &mut *HandleObject::<Queue>::alarm_slot(object);
    if let Some(old) = slot.take() {
        match old.renewed() {
            Ok(alarm) => {
                mem::forget(old);
                let _ = slot.set(Arc::new(alarm));
            }
            Err(_) => drop(slot.set(old)), // the kernel is out of memory; the parent and the child share it
        }
    }
}

/// What is waited for when an object is.
unsafe fn thing(state: &'static State, object: *mut ffi::PyObject) -> Result<Watched> {
    if let Some(watch) = handle::watch_of(state, object) {
        return Ok(watch(object));
    }
    Ok(Watched { thing: Box::new(interpreter::ending(state, &Owned::from_borrowed(object))?), place: None })
}

/// Watches a thing of an object's for an alarm. False, and nothing is watched, if it is ready.
unsafe fn watch(
    state: &State,
    object: *mut ffi::PyObject,
    Watched { thing, place }: Watched,
    alarm: &Arc<Alarm>,
    number: u64,
) -> IoResult<bool> {
    let object = if place.is_some() {
        HandleObject::<Queue>::set_watched(object);
        object.addr()
    } else {
        0
    };
    arm(Watch { thing, object, alarm: Arc::clone(alarm), number, place: place.unwrap_or(state.home()) })
}

/// Comes after an attempt that found nothing: what `fileno()` gave is not readable until another one may find something.
#[inline(always)]
pub(crate) unsafe fn missed(object: *mut ffi::PyObject) {
    if let Some(alarm) = HandleObject::<Queue>::alarm(object).get() {
        watch_again(object, alarm);
    }
}

/// The same after an attempt that says whether it found something.
#[inline(always)]
pub(crate) unsafe fn found(object: *mut ffi::PyObject, found: bool) -> bool {
    if !found {
        missed(object);
    }
    found
}

#[cold]
unsafe fn watch_again(object: *mut ffi::PyObject, alarm: &Arc<Alarm>) {
    // Whatever rang until now is for a change that the next step sees, too.
    alarm.take();
    let name = (Arc::as_ptr(alarm).addr(), ITSELF);
    if POSTS.lock().iter().any(|post| post.watches.contains_key(&name)) {
        return; // another attempt has found nothing since
    }
    let state = HandleObject::<Queue>::state(object);
    let Some(look) = handle::watch_of(state, object) else { return };
    // Without a thread to watch it, it is always ready.
    if !watch(state, object, look(object), alarm, ITSELF).unwrap_or(false) {
        alarm.ring(ITSELF);
    }
}

/// `fileno()` of the shared types.
pub(crate) unsafe extern "C" fn fileno(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let slot = HandleObject::<Queue>::alarm(object);
        let alarm = match slot.get() {
            Some(alarm) => alarm,
            None => {
                let new = Alarm::new().or_else(|error| errors::system(&error))?;
                let alarm = slot.get_or_init(|| Arc::new(new));
                watch_again(object, alarm);
                alarm
            }
        };
        Owned::from_raw(ffi::PyLong_FromLong(alarm.descriptor.as_raw_fd().into()))
    })
}

/// Describes the method.
pub(crate) const FILENO: ffi::PyMethodDef = py::method_no_args(
    c"fileno",
    fileno,
    c"fileno($self)\n--\n\n\
A file descriptor that is ready to be read when an attempt that does not wait may succeed, as long as the object is there.\n\n\
An attempt that finds nothing makes it unready until there may be something; only attempts of this object do. So look\n\
first, then wait for it. It is for selectors, and nobody should read from it.",
);

/// An alarm as an object of Python's.
#[repr(C)]
struct Object {
    base: ffi::PyObject,
    /// A reference, of an `Arc`: whoever looks out for the dead takes part as long.
    state: *const State,
    alarm: Option<Arc<Alarm>>,
}

unsafe fn parts<'a>(object: *mut ffi::PyObject) -> (&'static State, &'a Arc<Alarm>) {
    let this = &*object.cast::<Object>();
    // `new`, which sets both, is the only maker of such objects.
    (&*this.state, this.alarm.as_ref().unwrap_unchecked())
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        py::with_arguments(arguments, keywords, |arguments| arguments.parse::<0>("Alarm", [], 0))?;
        let alarm = Arc::new(Alarm::new().or_else(|error| errors::system(&error))?);
        state.loops.add(&alarm);
        let allocate = (*class).tp_alloc.unwrap_unchecked(); // every type has it
        let object = Owned::from_raw(allocate(class, 0))?;
        let this = object.as_ptr().cast::<Object>();
        Arc::increment_strong_count(state);
        (&raw mut (*this).state).write(state);
        (&raw mut (*this).alarm).write(Some(alarm));
        Ok(object)
    })
}

unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    let class = ffi::Py_TYPE(object);
    ffi::PyObject_GC_UnTrack(object.cast());
    let this = object.cast::<Object>();
    if let Some(alarm) = (&raw mut (*this).alarm).replace(None) {
        disarm(|_, watch| Arc::ptr_eq(&watch.alarm, &alarm));
    }
    if !(*this).state.is_null() {
        Arc::decrement_strong_count((*this).state);
    }
    let free = (*class).tp_free.unwrap_unchecked(); // every type has it
    free(object.cast());
    ffi::Py_DECREF(class.cast());
}

unsafe extern "C" fn alarm_fileno(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromLong(parts(object).1.descriptor.as_raw_fd().into())))
}

/// What of an object is watched, beside itself.
const PLACE: u64 = 1;
const DONE: u64 = 2;
const SINCE: u64 = 3;

/// `arm(number, object, what, times_set)`
unsafe extern "C" fn alarm_arm(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let parameters = [c"number", c"thing", c"what", c"times_set"];
        let [number, thing, what, times_set] = Arguments::new(values, count, names).parse("arm", parameters, 4)?;
        let (state, alarm) = parts(object);
        let watched = match py::unsigned(what)? {
            PLACE => queue::watch_place(state, thing)?,
            DONE => queue::watch_done(state, thing)?,
            SINCE => event::watch_since(state, thing, py::unsigned(times_set)? as u32)?,
            _ => self::thing(state, thing)?,
        };
        let place = watched.place.unwrap_or(state.home());
        match watch(state, thing, watched, alarm, py::unsigned(number)?) {
            Ok(true) => Ok(true),
            Ok(false) => {
                // The attempts that follow may find it in the hands of the dead, with nobody asleep who looks for them.
                place.look_out();
                Ok(false)
            }
            Err(error) => raise(ffi::PyExc_RuntimeError, &format!("can't start new thread: {error}")),
        }
    })
}

unsafe extern "C" fn alarm_disarm(object: *mut ffi::PyObject, number: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let number = py::unsigned(number)?;
        let name = (Arc::as_ptr(parts(object).1).addr(), number);
        POSTS.lock().iter_mut().for_each(|post| drop(post.watches.remove(&name)));
        Ok(())
    })
}

unsafe extern "C" fn alarm_ring(object: *mut ffi::PyObject, number: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        parts(object).1.ring(py::unsigned(number)?);
        Ok(())
    })
}

unsafe extern "C" fn alarm_take(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| py::list(parts(object).1.take(), |number| Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(number))))
}

static mut METHODS: [ffi::PyMethodDef; 6] = [
    py::method_no_args(c"fileno", alarm_fileno, c"fileno($self)\n--\n\nReady to be read when a watch went off."),
    py::method_fast(
        c"arm",
        alarm_arm,
        c"arm($self, number, thing, what, times_set)\n--\n\n\
Watch a thing until it may be ready, in place of the watch of that number; False, and nothing is watched, if it is ready.",
    ),
    py::method_one(c"disarm", alarm_disarm, c"disarm($self, number, /)\n--\n\nTake a watch away, if there is one."),
    py::method_one(c"ring", alarm_ring, c"ring($self, number, /)\n--\n\nDo what a watch does that goes off."),
    py::method_no_args(c"take", alarm_take, c"take($self)\n--\n\nThe numbers of the watches that went off since."),
    py::METHODS_END,
];

/// Makes the type `Alarm`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Alarm()\n--\n\n\
A file descriptor that is ready to be read when one of the things that are watched may be ready; for multigil._asyncio.";
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_doc, pfunc: doc.as_ptr().cast_mut().cast() },
        ffi::PyType_Slot { slot: ffi::Py_tp_new, pfunc: new as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: deallocate as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_traverse, pfunc: py::traverse_type as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: (&raw mut METHODS).cast() },
        ffi::PyType_Slot { slot: 0, pfunc: null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"multigil._core.Alarm".as_ptr(),
        basicsize: size_of::<Object>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_IMMUTABLETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    Owned::from_raw(ffi::PyType_FromModuleAndSpec(module, &raw mut spec, null_mut()))
}
