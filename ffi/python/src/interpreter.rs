//! `Subinterpreter`: an interpreter with a GIL of its own, and the operating system's thread that runs it.
//!
//! The thread is made here and belongs to the interpreter alone, from its creation to its end: CPython has trouble with
//! interpreters that are run from several threads, or ended while somebody runs in them.
//!
//! ```text
//!   thread  attach to the main interpreter → Py_NewInterpreterFromConfig → run the bootstrap → Py_EndInterpreter
//!   gate      closed ─────────────────────────────────────────→ open ──────────→ closed for ever
//! ```
//!
//! The gate is open while others may attach to the interpreter: whoever does holds it, so the interpreter stays until
//! then. What is asked of the thread goes to its seat, which is there from the first to the last.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use std::ffi::CString;
use std::os::unix::thread::JoinHandleExt;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use multigil::error::WaitError;
use multigil::event::{Event, Watchable};
use multigil::layout::{ObjectId, ObjectKind};
use multigil::object::{Handle, Region};
use multigil::queue::Queue;
use parking_lot::Mutex;
use pyo3::ffi;

use crate::handle::HandleObject;
use crate::py::{self, Arguments, Owned, Raised, Result, check, raise};
use crate::state::State;
use crate::wait::{self, Request, Seat, Subject};
use crate::{codec, errors, pool};

/// Bytes of stack: twice the main thread's usual size. Only what is used takes memory.
const STACK_BYTES: usize = 16 << 20;
/// The fewest bytes of stack: to make an interpreter and import a few modules there takes 160 KiB.
const LEAST_STACK_BYTES: usize = 512 << 10;

/// How much of a thread's name the kernel keeps.
const SHOWN_BYTES: usize = 15;

/// All that were made in this process, by whichever interpreter.
static ALL: Mutex<All> = Mutex::new(All { count: 0, alive: Vec::new() });

struct All {
    /// How many were made so far.
    count: usize,
    /// In the order of their numbers; perhaps some that have ended are among them.
    alive: Vec<Weak<Shared>>,
}

/// What the interpreter's thread and the handles to it share.
#[derive(Debug)]
struct Shared {
    /// No other one of this process has it.
    number: usize,
    /// The process that made it.
    process: u32,
    seat: Arc<Seat>,
    region: &'static Region,
    gate: Mutex<Gate>,
    facts: Mutex<Facts>,
    /// Notified when the thread is known by its kernel's id.
    begun: Event,
    ended: Event,
    /// To be shut down when the interpreter has ended, however that comes. The first is where it gets its tasks.
    queues: Vec<Handle<'static, Queue>>,
    /// Where to put which number when it has ended.
    heir: Mutex<Option<(Handle<'static, Queue>, u64)>>,
    /// The thread, until somebody has joined it.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What to attach to; None while nobody may.
#[derive(Debug, Default)]
struct Gate(Option<Target>);

#[derive(Debug)]
struct Target {
    interpreter: *mut ffi::PyInterpreterState,
    thread: *mut ffi::PyThreadState,
    ident: u64,
    native_id: i32,
}

// SAFETY: an interpreter's address may be used on any thread while the gate is held.
unsafe impl Send for Gate {}

/// What is known of the interpreter.
#[derive(Debug, Default)]
struct Facts {
    /// What the users of all interpreters call it, in UTF-8 where lone surrogates may be; None before it has a task.
    name: Option<Vec<u8>>,
    daemon: bool,
    id: Option<i64>,
    ident: Option<u64>,
    native_id: Option<i32>,
    error: Option<String>,
    ended: bool,
}

impl Facts {
    /// Gives the thread the name in the kernel, where `top -H` and debuggers see it, as CPython does since 3.14.
    fn show_name(&self) {
        if let (Some(name), Some(native_id), false) = (&self.name, self.native_id, self.ended) {
            let shown = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let shown = &shown[..shown.len().min(SHOWN_BYTES)];
            drop(std::fs::write(format!("/proc/self/task/{native_id}/comm"), shown)); // no harm if it can't be done
        }
    }
}

impl Drop for Shared {
    /// In a forked child the handles are the parent's.
    fn drop(&mut self) {
        if self.process != std::process::id() {
            self.queues.drain(..).for_each(core::mem::forget);
            core::mem::forget(self.heir.get_mut().take());
        }
    }
}

impl Shared {
    fn has_ended(&self) -> bool {
        self.facts.lock().ended
    }

    /// Marks the end, and tells everybody who waits for it.
    fn end(&self, error: Option<String>) {
        for queue in &self.queues {
            queue.shut_down(false, queue.region(), queue.owner());
        }
        let mut facts = self.facts.lock();
        facts.error = error.or(facts.error.take());
        facts.ended = true;
        drop(facts);
        self.ended.notify_all(self.region.bell()); // unlocking was the read-modify-write that it asks for
        self.begun.notify_all(self.region.bell());
        self.tell_heir();
    }

    /// Tells of the end, once, if there is somebody to be told and it has come.
    fn tell_heir(&self) {
        let mut heir = self.heir.lock();
        if self.has_ended()
            && let Some((queue, number)) = heir.take()
        {
            // Who has shut the queue down does not want to know.
            codec::put_number(&queue, number);
        }
    }

    /// The whole life of the interpreter, on its own thread.
    fn run(&self, bootstrap: &CStr) {
        wait::sit_down(Arc::clone(&self.seat));
        // SAFETY: this thread is attached to nothing before and after, and to what the function says in between.
        let result = unsafe { self.live(bootstrap) };
        self.end(result.err());
    }

    unsafe fn live(&self, bootstrap: &CStr) -> core::result::Result<(), String> {
        if wait::is_finalizing() {
            return Err("the program is ending".to_owned());
        }
        let native_id = libc::gettid();
        let ident = ffi::PyThread_get_thread_ident();
        {
            let mut facts = self.facts.lock();
            facts.native_id = Some(native_id);
            facts.show_name();
        }
        self.begun.notify_all(self.region.bell()); // unlocking was the read-modify-write that it asks for
        let thread = create()?;
        let interpreter = ffi::PyInterpreterState_Get();
        self.facts.lock().id = Some(ffi::PyInterpreterState_GetID(interpreter));
        self.open_gate(Target { interpreter, thread, ident, native_id });
        let result = run_text(bootstrap);
        // Nobody may be at the gate while it closes, and whoever is there waits for this interpreter's GIL.
        wait::detached(|| self.gate.lock().0.take());
        ffi::Py_EndInterpreter(thread);
        result
    }

    unsafe fn open_gate(&self, target: Target) {
        wait::detached(|| self.gate.lock().0 = Some(target));
    }

    /// Asks with the interpreter's GIL, as soon as its thread gives that away; false if it is not running. On a thread
    /// that is attached to nothing.
    fn ask_attached(&self, request: Request) -> bool {
        let gate = self.gate.lock();
        let Some(target) = &gate.0 else { return false };
        // SAFETY: the gate is held, so the interpreter stays; this thread is attached to it from here to the end.
        unsafe { visit(target.interpreter, || self.seat.ask(request, Some(target.ident))) }
    }

    /// Ends the interpreter although its thread is asleep in a call that is not ours; false if it is awake, or not
    /// alone. On a thread that is attached to nothing. The interpreter's thread never runs again.
    fn abandon(&self) -> bool {
        let mut gate = self.gate.lock();
        let Some(target) = &gate.0 else { return false };
        // SAFETY: the gate is held, so the interpreter stays; this thread is attached to it from here to the end.
        unsafe {
            let thread = ffi::PyThreadState_New(target.interpreter);
            // With the GIL here, the other thread is outside of Python and stays there.
            ffi::PyEval_AcquireThread(thread);
            let freeze = || freeze::asleep(target.native_id) && freeze::freeze(target.native_id);
            if !target.is_alone_with(thread) || !self.seat.vacate(freeze) {
                ffi::PyThreadState_Clear(thread);
                ffi::PyThreadState_DeleteCurrent();
                return false;
            }
            // `threading` would wait for the thread that is frozen.
            let _ = run_text(c"import sys\nif 'threading' in sys.modules: sys.modules['threading']._shutdown = bool");
            ffi::PyThreadState_Clear(target.thread);
            ffi::PyThreadState_Delete(target.thread);
            ffi::Py_EndInterpreter(thread);
        }
        gate.0 = None;
        drop(gate);
        self.thread.lock().take(); // it can't be joined
        self.end(Some("its thread was asleep in a call outside of Python, and stays there".to_owned()));
        true
    }
}

/// Ready when it has ended.
impl Watchable for Shared {
    fn is_ready(&self) -> bool {
        self.has_ended()
    }

    fn look(&self) -> bool {
        self.ended.watch();
        self.has_ended()
    }
}

/// What is waited for when an `Interpreter` is: its `Subinterpreter`, or the event of a process's end. None if the object
/// is none. An error if it can't be waited for.
pub(crate) unsafe fn awaited(object: *mut ffi::PyObject) -> Result<Option<Owned>> {
    let class = Owned::from_borrowed(ffi::Py_TYPE(object).cast());
    let Ok(method) = class.attribute(c"_awaited") else {
        ffi::PyErr_Clear();
        return Ok(None);
    };
    method.call(&[object]).map(Some)
}

/// What is ready when a `Subinterpreter` has ended.
pub(crate) unsafe fn ending(state: &State, subinterpreter: &Owned) -> Result<impl Watchable + 'static> {
    let expected = state.object(&state.objects.subinterpreter_type)?;
    if ffi::PyObject_TypeCheck(subinterpreter.as_ptr(), expected.as_ptr().cast()) == 0 {
        return raise(ffi::PyExc_TypeError, "_awaited() must give a Subinterpreter or an Event");
    }
    Ok(Arc::clone(parts(subinterpreter.as_ptr()).1))
}

impl Target {
    /// Whether the interpreter's own thread and `mine` are all that it has.
    unsafe fn is_alone_with(&self, mine: *mut ffi::PyThreadState) -> bool {
        let mut thread = ffi::PyInterpreterState_ThreadHead(self.interpreter);
        while !thread.is_null() {
            if thread != mine && thread != self.thread {
                return false;
            }
            thread = ffi::PyThreadState_Next(thread);
        }
        true
    }
}

/// Makes an interpreter with its own GIL; the calling thread is attached to it then.
unsafe fn create() -> core::result::Result<*mut ffi::PyThreadState, String> {
    let config = ffi::PyInterpreterConfig {
        use_main_obmalloc: 0,
        allow_fork: 0,
        allow_exec: 0,
        allow_threads: 1,
        allow_daemon_threads: 0,
        check_multi_interp_extensions: 1,
        gil: ffi::PyInterpreterConfig_OWN_GIL,
    };
    // The documentation asks for an attached thread, whichever interpreter it is attached to.
    let main = ffi::PyThreadState_New(ffi::PyInterpreterState_Main());
    ffi::PyEval_AcquireThread(main);
    let mut thread = null_mut();
    let status = ffi::Py_NewInterpreterFromConfig(&raw mut thread, &raw const config);
    let failed = ffi::PyStatus_Exception(status) != 0;
    // A failure leaves this thread attached to the main interpreter, success to the new one.
    let created = if failed { null_mut() } else { ffi::PyEval_SaveThread() };
    if !failed {
        ffi::PyEval_AcquireThread(main);
    }
    ffi::PyThreadState_Clear(main);
    ffi::PyThreadState_DeleteCurrent();
    if failed {
        let reason = if status.err_msg.is_null() {
            "unknown reason".into()
        } else {
            CStr::from_ptr(status.err_msg).to_string_lossy()
        };
        return Err(format!("CPython could not make an interpreter: {reason}"));
    }
    ffi::PyEval_AcquireThread(created);
    Ok(created)
}

/// Runs source text in a namespace of its own. What escapes from it is the error.
unsafe fn run_text(text: &CStr) -> core::result::Result<(), String> {
    match run_in_namespace(text) {
        Ok(_) => Ok(()),
        Err(Raised) => Err(describe_error()),
    }
}

/// The namespace in which the source text ran.
unsafe fn run_in_namespace(text: &CStr) -> Result<Owned> {
    let namespace = Owned::from_raw(ffi::PyDict_New())?;
    check(ffi::PyDict_SetItemString(namespace.as_ptr(), c"__builtins__".as_ptr(), ffi::PyEval_GetBuiltins()))?;
    // Not `PyRun_String`, which makes the whole process forget that a KeyboardInterrupt is what ends it.
    let code = Owned::from_raw(ffi::Py_CompileString(text.as_ptr(), c"<string>".as_ptr(), ffi::Py_file_input))?;
    Owned::from_raw(ffi::PyEval_EvalCode(code.as_ptr(), namespace.as_ptr(), namespace.as_ptr()))?;
    Ok(namespace)
}

/// Takes the exception that is set and puts it into words.
unsafe fn describe_error() -> String {
    let Ok(error) = Owned::from_raw(ffi::PyErr_GetRaisedException()) else { return String::new() };
    let name = CStr::from_ptr((*ffi::Py_TYPE(error.as_ptr())).tp_name).to_string_lossy().into_owned();
    let text = Owned::from_raw(ffi::PyObject_Str(error.as_ptr())).and_then(|text| {
        let mut length = 0;
        let start = ffi::PyUnicode_AsUTF8AndSize(text.as_ptr(), &raw mut length);
        if start.is_null() {
            return Err(Raised);
        }
        Ok(String::from_utf8_lossy(core::slice::from_raw_parts(start.cast(), length as usize)).into_owned())
    });
    match text {
        Ok(text) => format!("{name}: {text}"),
        Err(Raised) => {
            ffi::PyErr_Clear();
            name
        }
    }
}

#[repr(C)]
struct Object {
    base: ffi::PyObject,
    /// A reference, of an `Arc`.
    state: *const State,
    shared: Option<Arc<Shared>>,
}

unsafe fn parts<'a>(object: *mut ffi::PyObject) -> (&'static State, &'a Arc<Shared>) {
    let this = &*object.cast::<Object>();
    // `new`, which sets both, is the only maker of such objects.
    (&*this.state, this.shared.as_ref().unwrap_unchecked())
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        let (bootstrap, queues, stack_size) = py::with_arguments(arguments, keywords, |arguments| {
            let parameters = [c"bootstrap", c"queues", c"stack_size"];
            let [bootstrap, queues, stack_size] = arguments.parse("Subinterpreter", parameters, 1)?;
            let text = ffi::PyUnicode_AsUTF8AndSize(bootstrap, null_mut());
            if text.is_null() {
                return Err(Raised);
            }
            Ok((CString::from(CStr::from_ptr(text)), handles(state, queues)?, stack_bytes(stack_size)?))
        })?;
        let mut all = ALL.lock();
        all.count += 1;
        let shared = Arc::new(Shared {
            number: all.count,
            process: std::process::id(),
            seat: Arc::default(),
            region: state.home().region,
            gate: Mutex::default(),
            facts: Mutex::default(),
            begun: Event::default(),
            ended: Event::default(),
            queues,
            heir: Mutex::default(),
            thread: Mutex::default(),
        });
        all.alive.retain(|one| one.strong_count() > 0);
        all.alive.push(Arc::downgrade(&shared));
        drop(all);
        let object = wrap(state, class, Arc::clone(&shared))?;
        let builder = std::thread::Builder::new().name("multigil".to_owned()).stack_size(stack_size);
        let theirs = Arc::clone(&shared);
        match builder.spawn(move || theirs.run(&bootstrap)) {
            Ok(thread) => {
                // What `threading.get_ident()` gives on Linux.
                shared.facts.lock().ident = Some(thread.as_pthread_t());
                *shared.thread.lock() = Some(thread);
                Ok(object)
            }
            Err(error) => raise(ffi::PyExc_RuntimeError, &format!("can't start new thread: {error}")),
        }
    })
}

/// A handle to an interpreter.
unsafe fn wrap(state: &'static State, class: *mut ffi::PyTypeObject, shared: Arc<Shared>) -> Result<Owned> {
    let allocate = (*class).tp_alloc.unwrap_unchecked(); // every type has it
    let object = Owned::from_raw(allocate(class, 0))?;
    let this = object.as_ptr().cast::<Object>();
    Arc::increment_strong_count(state);
    (&raw mut (*this).state).write(state);
    (&raw mut (*this).shared).write(Some(shared));
    Ok(object)
}

/// The size of stack for what was asked for; null and 0 mean the usual one.
unsafe fn stack_bytes(size: *mut ffi::PyObject) -> Result<usize> {
    if size.is_null() {
        return Ok(STACK_BYTES);
    }
    let size = ffi::PyLong_AsSize_t(size);
    if size == usize::MAX && !ffi::PyErr_Occurred().is_null() {
        return Err(Raised);
    }
    Ok(if size == 0 { STACK_BYTES } else { size.max(LEAST_STACK_BYTES) })
}

/// Handles of our own to the queues of a sequence, which may be null.
pub(crate) unsafe fn handles(state: &State, queues: *mut ffi::PyObject) -> Result<Vec<Handle<'static, Queue>>> {
    if queues.is_null() {
        return Ok(Vec::new());
    }
    let queues = Owned::from_raw(ffi::PySequence_Tuple(queues))?;
    let class = state.object(&state.objects.queue_type)?;
    let mut handles = Vec::new();
    for place in 0..ffi::PyTuple_Size(queues.as_ptr()) {
        let queue = ffi::PyTuple_GetItem(queues.as_ptr(), place); // borrowed
        if ffi::PyObject_TypeCheck(queue, class.as_ptr().cast()) == 0
            || HandleObject::<Queue>::kind(queue) != Some(ObjectKind::Queue)
        {
            return raise(ffi::PyExc_TypeError, "argument 'queues' must be a sequence of Queue");
        }
        let id = HandleObject::<Queue>::of(queue).1.id();
        match state.home().region.attach(id, state.home().me) {
            Ok(handle) => handles.push(handle),
            Err(error) => return errors::attach(state, error),
        }
    }
    Ok(handles)
}

unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    let class = ffi::Py_TYPE(object);
    ffi::PyObject_GC_UnTrack(object.cast());
    let this = object.cast::<Object>();
    (&raw mut (*this).shared).drop_in_place();
    if !(*this).state.is_null() {
        Arc::decrement_strong_count((*this).state);
    }
    let free = (*class).tp_free.unwrap_unchecked(); // every type has it
    free(object.cast());
    ffi::Py_DECREF(class.cast());
}

unsafe extern "C" fn join(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let [timeout] = Arguments::new(values, count, names).parse("join", [c"timeout"], 0)?;
        let deadline = wait::join_timeout(timeout)?;
        let (state, shared) = parts(object);
        let ended = || shared.has_ended().then_some(());
        if ended().is_none() {
            let native_id = shared.facts.lock().native_id;
            let subject = native_id.map_or(Subject::Nothing, |native_id| Subject::Thread(native_id as u32));
            let result = wait::wait(
                state,
                subject,
                deadline,
                |patience| shared.ended.wait_until(state.home().region.bell(), patience, ended, || true),
                |error| *error == WaitError::Interrupted,
            )?;
            if result.is_err() {
                return Ok(false);
            }
        }
        // It is at its last instructions. When it is gone, so is what the kernel counts as a thread.
        let thread = shared.thread.lock().take();
        if let Some(thread) = thread
            && thread.as_pthread_t() != ffi::PyThread_get_thread_ident()
        {
            wait::detached(|| thread.join()).ok(); // it catches its panics
        }
        Ok(true)
    })
}

unsafe extern "C" fn tell(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [queue, number] = Arguments::new(values, count, names).parse("tell", [c"queue", c"number"], 2)?;
        let (state, shared) = parts(object);
        let (id, number) = (pool::queue(state, queue)?.id(), py::unsigned(number)?);
        match state.home().region.attach(id, state.home().me) {
            Ok(handle) => *shared.heir.lock() = Some((handle, number)),
            Err(error) => return errors::attach(state, error),
        }
        shared.tell_heir();
        Ok(())
    })
}

unsafe extern "C" fn interrupt(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [last] = Arguments::new(values, count, names).parse("interrupt", [c"last"], 1)?;
        ask(object, Request::Interrupt(py::unsigned(last)?), None)
    })
}

unsafe extern "C" fn terminate(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [timeout] = Arguments::new(values, count, names).parse("terminate", [c"timeout"], 0)?;
        let (state, shared) = parts(object);
        if let Some(tasks) = shared.queues.first() {
            tasks.shut_down(true, state.home().region, state.home().me);
        }
        ask(object, Request::Terminate, wait::join_timeout(timeout)?)
    })
}

/// Asks the thread of an interpreter to raise something, and waits until it was reached.
unsafe fn ask(object: *mut ffi::PyObject, request: Request, deadline: Option<Instant>) -> Result<()> {
    let (state, shared) = parts(object);
    if !wait::detached(|| shared.seat.ask(request, None)) {
        let shared = Arc::clone(shared);
        elsewhere(state, deadline, move || shared.ask_attached(request))?;
    }
    Ok(())
}

unsafe extern "C" fn abandon(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let [timeout] = Arguments::new(values, count, names).parse("abandon", [c"timeout"], 0)?;
        let deadline = wait::join_timeout(timeout)?;
        let (state, shared) = parts(object);
        let shared = Arc::clone(shared);
        Ok(elsewhere(state, deadline, move || shared.abandon())?.unwrap_or(false))
    })
}

/// Does something that waits for an interpreter's GIL, which a long call into C may keep: on a thread of its own, for
/// which this one waits as long as it likes. None if that was too short.
unsafe fn elsewhere<T: Send + 'static>(
    state: &State,
    deadline: Option<Instant>,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>> {
    let region = state.home().region;
    let outcome = Arc::new((Mutex::new(None), Event::default()));
    let theirs = Arc::clone(&outcome);
    let run = move || {
        let done = job();
        *theirs.0.lock() = Some(done);
        theirs.1.notify_all(region.bell()); // unlocking was the read-modify-write that it asks for
    };
    if let Err(error) = std::thread::Builder::new().name("multigil-helper".to_owned()).spawn(run) {
        return raise(ffi::PyExc_RuntimeError, &format!("can't start new thread: {error}"));
    }
    let result = wait::wait(
        state,
        Subject::Nothing,
        deadline,
        |patience| outcome.1.wait_until(region.bell(), patience, || outcome.0.lock().take(), || true),
        |error| *error == WaitError::Interrupted,
    )?;
    Ok(result.ok())
}

/// The interpreters that were made here and have not ended, in the order of their numbers.
fn running() -> Vec<Arc<Shared>> {
    ALL.lock().alive.iter().filter_map(Weak::upgrade).filter(|shared| !shared.has_ended()).collect()
}

/// The ids of the interpreters that [`look_into`] reaches.
pub(crate) fn ids() -> Vec<i64> {
    let made = running().into_iter().filter_map(|shared| shared.facts.lock().id);
    core::iter::once(MAIN_ID).chain(made).collect()
}

/// The main interpreter's id.
const MAIN_ID: i64 = 0;

/// The thread of the interpreter at whose end, or sooner, that queue is shut down.
pub(crate) fn thread_behind(queue: ObjectId) -> Option<u32> {
    let shared = running().into_iter().find(|shared| shared.queues.iter().any(|handle| handle.id() == queue))?;
    let native_id = shared.facts.lock().native_id;
    native_id.map(|native_id| native_id as u32)
}

/// Runs source text in an interpreter, between two bytecodes of its threads, and gives the bytes that it calls `result`.
/// None if the interpreter is not there, does not give its GIL away in time, or the text failed.
pub(crate) unsafe fn look_into(
    state: &State,
    id: i64,
    text: CString,
    deadline: Option<Instant>,
) -> Result<Option<Vec<u8>>> {
    let shared = running().into_iter().find(|shared| shared.facts.lock().id == Some(id));
    let look = move || match shared {
        Some(shared) => {
            let gate = shared.gate.lock();
            // SAFETY: the gate is held, so the interpreter stays; this thread is attached to nothing.
            gate.0.as_ref().and_then(|target| unsafe { visit(target.interpreter, || result_of(&text)) })
        }
        // SAFETY: the main interpreter stays until the program ends; this thread is attached to nothing.
        None if id == MAIN_ID && !wait::is_finalizing() => unsafe {
            visit(ffi::PyInterpreterState_Main(), || result_of(&text))
        },
        None => None,
    };
    Ok(elsewhere(state, deadline, look)?.flatten())
}

/// Attaches the calling thread, which is attached to nothing, to an interpreter, as soon as that gives its GIL away.
unsafe fn visit<T>(interpreter: *mut ffi::PyInterpreterState, body: impl FnOnce() -> T) -> T {
    let thread = ffi::PyThreadState_New(interpreter);
    ffi::PyEval_AcquireThread(thread);
    let result = body();
    ffi::PyErr_Clear();
    ffi::PyThreadState_Clear(thread);
    ffi::PyThreadState_DeleteCurrent();
    result
}

unsafe fn result_of(text: &CStr) -> Option<Vec<u8>> {
    let namespace = run_in_namespace(text).ok()?;
    let result = ffi::PyDict_GetItemString(namespace.as_ptr(), c"result".as_ptr()); // borrowed
    let (mut start, mut length) = (null_mut(), 0);
    if result.is_null() || ffi::PyBytes_AsStringAndSize(result, &raw mut start, &raw mut length) != 0 {
        return None;
    }
    Some(core::slice::from_raw_parts(start.cast::<u8>(), length as usize).to_vec())
}

unsafe extern "C" fn is_alive(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(!parts(object).1.has_ended()))
}

/// `subinterpreters()`: handles to all interpreters of this process that were made here and have not ended.
pub(crate) unsafe extern "C" fn subinterpreters(
    module: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let class = state.object(&state.objects.subinterpreter_type)?;
        py::list(running(), |shared| wrap(state, class.as_ptr().cast(), shared))
    })
}

/// An integer that may be unknown.
unsafe fn optional(value: Option<i64>) -> Result<Owned> {
    value.map_or_else(|| Ok(Owned::none()), |value| Owned::from_raw(ffi::PyLong_FromLongLong(value)))
}

unsafe extern "C" fn get_number(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromSize_t(parts(object).1.number)))
}

/// How names are kept as bytes: every `str` is a name, even one that is no Unicode.
const ERRORS: &CStr = c"surrogatepass";

unsafe extern "C" fn get_name(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        let name = parts(object).1.facts.lock().name.clone();
        let Some(name) = name else { return Ok(Owned::none()) };
        let (text, length) = (name.as_ptr().cast(), name.len() as ffi::Py_ssize_t);
        Owned::from_raw(ffi::PyUnicode_DecodeUTF8(text, length, ERRORS.as_ptr()))
    })
}

unsafe extern "C" fn set_name(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| {
        if value.is_null() {
            return raise(ffi::PyExc_AttributeError, "name can't be deleted");
        }
        let bytes = Owned::from_raw(ffi::PyUnicode_AsEncodedString(value, c"utf-8".as_ptr(), ERRORS.as_ptr()))?;
        let (mut start, mut length) = (null_mut(), 0);
        check(ffi::PyBytes_AsStringAndSize(bytes.as_ptr(), &raw mut start, &raw mut length))?;
        let name = core::slice::from_raw_parts(start.cast::<u8>(), length as usize).to_vec();
        let mut facts = parts(object).1.facts.lock();
        facts.name = Some(name);
        facts.show_name();
        Ok(())
    })
}

unsafe extern "C" fn get_daemon(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(parts(object).1.facts.lock().daemon))
}

unsafe extern "C" fn set_daemon(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| {
        if value.is_null() {
            return raise(ffi::PyExc_AttributeError, "daemon can't be deleted");
        }
        let daemon = py::truth(value, false)?;
        parts(object).1.facts.lock().daemon = daemon;
        Ok(())
    })
}

unsafe extern "C" fn get_id(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| optional(parts(object).1.facts.lock().id))
}

unsafe extern "C" fn get_ident(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| optional(parts(object).1.facts.lock().ident.map(|ident| ident as i64)))
}

/// The thread tells its id itself, as the first thing it does.
unsafe extern "C" fn get_native_id(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        let (state, shared) = parts(object);
        let known = || {
            let facts = shared.facts.lock();
            (facts.native_id.is_some() || facts.ended).then_some(facts.native_id)
        };
        let native_id = match known() {
            Some(native_id) => native_id,
            None => wait::wait(
                state,
                Subject::Nothing,
                None,
                |patience| shared.begun.wait_until(state.home().region.bell(), patience, known, || true),
                |error| *error == WaitError::Interrupted,
            )?
            .unwrap_or(None),
        };
        optional(native_id.map(i64::from))
    })
}

unsafe extern "C" fn get_error(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| match &parts(object).1.facts.lock().error {
        None => Ok(Owned::none()),
        Some(text) => {
            Owned::from_raw(ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len() as ffi::Py_ssize_t))
        }
    })
}

static mut METHODS: [ffi::PyMethodDef; 7] = [
    py::method_fast(
        c"join",
        join,
        c"join($self, timeout=None)\n--\n\n\
Wait until the interpreter and its thread have ended, at most timeout seconds; whether they have.",
    ),
    py::method_fast(
        c"tell",
        tell,
        c"tell($self, queue, number)\n--\n\nPut (number, None, None) into the queue when the interpreter has ended.",
    ),
    py::method_fast(
        c"interrupt",
        interrupt,
        c"interrupt($self, last)\n--\n\n\
Raise KeyboardInterrupt in the task that its thread has exposed, even in a wait of ours, if its number is at most last.\n\n\
Between tasks it is noted, and strikes the next one up to that number where that begins. Waits until the thread could\n\
be reached: it can't while it is in a call into C that keeps the GIL.",
    ),
    py::method_fast(
        c"terminate",
        terminate,
        c"terminate($self, timeout=None)\n--\n\n\
Raise InterpreterTerminated in whatever its thread has exposed, now, and in all that it would expose later.\n\n\
What the first of the queues holds is dropped. Waits until the thread could be reached, as interrupt() does, at most timeout seconds.",
    ),
    py::method_fast(
        c"abandon",
        abandon,
        c"abandon($self, timeout=None)\n--\n\n\
End the interpreter although its thread is asleep in a call that knows nothing of us, such as time.sleep().\n\n\
Only for the end of the program: the thread never runs again, and what it holds is lost. Waits until the GIL is free, at\n\
most timeout seconds. Gives False, and nothing has changed, if the thread is awake or the interpreter has others.",
    ),
    py::method_no_args(c"is_alive", is_alive, c"is_alive($self)\n--\n\nWhether the thread has not ended."),
    py::METHODS_END,
];

const fn attribute(
    name: &'static CStr,
    get: ffi::getter,
    set: Option<ffi::setter>,
    doc: &'static CStr,
) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set, doc: doc.as_ptr(), closure: null_mut() }
}

static mut ATTRIBUTES: [ffi::PyGetSetDef; 8] = [
    attribute(c"number", get_number, None, c"1, 2, 3 ...: which one of this process it is."),
    attribute(c"name", get_name, Some(set_name), c"What all interpreters call it; None before it has a task."),
    attribute(c"daemon", get_daemon, Some(set_daemon), c"Whether the program's end does not wait for it."),
    attribute(c"id", get_id, None, c"CPython's id of the interpreter; None before it exists."),
    attribute(c"ident", get_ident, None, c"threading.get_ident() of its thread."),
    attribute(c"native_id", get_native_id, None, c"The kernel's id of its thread; None if it could not begin."),
    attribute(
        c"error",
        get_error,
        None,
        c"Why it could not be made, or what escaped from bootstrap; None if nothing did.",
    ),
    ffi::PyGetSetDef { name: core::ptr::null(), get: None, set: None, doc: core::ptr::null(), closure: null_mut() },
];

/// Makes the type `Subinterpreter`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Subinterpreter(bootstrap, queues=(), stack_size=0)\n--\n\n\
One interpreter with a GIL of its own, and the operating system's thread that runs it.\n\n\
Gives at once. The new thread makes the interpreter, runs the source text bootstrap in a namespace of its own (not in\n\
__main__), then ends the interpreter and shuts the queues down, however it came to the end. Its stack has at least\n\
stack_size bytes; 0 means the usual 16 MiB.";
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_doc, pfunc: doc.as_ptr().cast_mut().cast() },
        ffi::PyType_Slot { slot: ffi::Py_tp_new, pfunc: new as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: deallocate as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_traverse, pfunc: py::traverse_type as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: (&raw mut METHODS).cast() },
        ffi::PyType_Slot { slot: ffi::Py_tp_getset, pfunc: (&raw mut ATTRIBUTES).cast() },
        ffi::PyType_Slot { slot: 0, pfunc: null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"multigil._core.Subinterpreter".as_ptr(),
        basicsize: size_of::<Object>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_IMMUTABLETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    Owned::from_raw(ffi::PyType_FromModuleAndSpec(module, &raw mut spec, null_mut()))
}

mod freeze {
    //! Stopping one thread of the process for good, at the end of the program.
    //!
    //! A signal handler that never returns keeps the thread where it is. That is only safe while it sleeps in the kernel,
    //! outside of every lock of the C library's.

    use core::mem::MaybeUninit;
    use core::time::Duration;

    /// How long a thread must not have run to count as asleep.
    const STILL: Duration = Duration::from_millis(20);
    /// How long the signal may take to arrive.
    const PATIENCE_SECONDS: libc::time_t = 1;

    /// Posted by the handler.
    static mut ARRIVED: MaybeUninit<libc::sem_t> = MaybeUninit::uninit();

    extern "C" fn stay(_: libc::c_int) {
        // SAFETY: `freeze` made the semaphore before it sent the signal; both calls are async-signal-safe.
        unsafe {
            libc::sem_post((&raw mut ARRIVED).cast());
            loop {
                libc::pause();
            }
        }
    }

    /// Whether the thread sleeps in the kernel and has not run for a while.
    pub(super) fn asleep(thread: i32) -> bool {
        let sample = || {
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            field("State:")?.trim_start().starts_with('S').then(|| field("voluntary_ctxt_switches:"))
        };
        let before = sample();
        std::thread::sleep(STILL);
        before.is_some() && before == sample()
    }

    /// Stops the thread for good; false if no signal is free or the thread blocks it.
    pub(super) fn freeze(thread: i32) -> bool {
        // SAFETY: each call gets live structures. The signal is one that nobody handles; the handler never returns.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            let unused = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(|signal| {
                libc::sigaction(*signal, core::ptr::null(), &raw mut action) == 0
                    && action.sa_sigaction == libc::SIG_DFL
            });
            let Some(signal) = unused else { return false };
            action = core::mem::zeroed();
            action.sa_sigaction = stay as *const () as usize;
            libc::sigfillset(&raw mut action.sa_mask);
            if libc::sem_init((&raw mut ARRIVED).cast(), 0, 0) != 0
                || libc::sigaction(signal, &raw const action, core::ptr::null_mut()) != 0
                || libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) != 0
            {
                return false;
            }
            let mut until: libc::timespec = core::mem::zeroed();
            libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut until);
            until.tv_sec += PATIENCE_SECONDS;
            let arrived = libc::sem_timedwait((&raw mut ARRIVED).cast(), &raw const until) == 0;
            // The next one to be frozen finds this signal free again.
            action.sa_sigaction = if arrived { libc::SIG_DFL } else { libc::SIG_IGN };
            libc::sigaction(signal, &raw const action, core::ptr::null_mut());
            arrived
        }
    }
}
