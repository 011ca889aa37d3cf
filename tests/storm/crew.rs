//! What the children of a storm do until they are killed, or told to stop.

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use multigil::barrier::Arrival;
use multigil::condition::Condition;
use multigil::control::AnyQueue;
use multigil::error::{AcquireError, BarrierError, GetError, OwnerDied};
use multigil::event::{Parker, Patience};
use multigil::fault::doom;
use multigil::key::{Encoder, Key};
use multigil::layout::{ObjectId, PeerId};
use multigil::lock::{Lock, Owner};
use multigil::memory::Format;
use multigil::object::{
    Handle, Message, Region, SharedBarrier, SharedCondition, SharedFlag, SharedLock, SharedMemory, SharedRLock,
    SharedSemaphore, SharedState, Watch,
};
use multigil::ordered::{Get, Operation, Order, OrderedQueue, Outcome, Put};
use multigil::ordered::{Lifo, Priority};
use multigil::queue::Queue;
use multigil::waiters::Call;

use crate::book::{BEGUN, Book, DONE, Doing, GOT, PUT, SLOTS, STREAMS, Slot, nanoseconds};
use crate::dice::Dice;
use crate::payload::{Number, reference, referred};

/// Whoever waits longer waits for ever.
pub(crate) const HANG: Duration = Duration::from_secs(20);
/// The most tokens that those who share a condition let lie.
const MOST_TOKENS: u64 = 4;

/// What a child is there for, with the objects that it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Producer(ObjectId, usize),
    Consumer(ObjectId),
    LifoProducer(ObjectId, usize),
    LifoConsumer(ObjectId),
    PriorityProducer(ObjectId, usize),
    PriorityConsumer(ObjectId),
    /// Puts queues into a queue.
    Nester(ObjectId, usize),
    Unnester(ObjectId),
    /// Counts up what is in the memory.
    LockHolder {
        lock: ObjectId,
        memory: ObjectId,
    },
    RLockHolder {
        lock: ObjectId,
        memory: ObjectId,
    },
    /// Puts tokens into the memory or takes them out: the conditions are that there is one, and that there is room.
    Tokens {
        lock: ObjectId,
        conditions: [ObjectId; 2],
        memory: ObjectId,
        takes: bool,
    },
    BarrierMember(ObjectId),
    SemaphoreHolder(ObjectId),
    Setter(ObjectId),
    FlagWaiter(ObjectId),
    /// Takes and leaves handles to what is there, and to what it makes.
    Attacher([ObjectId; 2]),
    /// Puts right what the dead have left.
    Recoverer,
}

impl Role {
    /// Whether it goes on until its queue is shut down.
    pub(crate) fn is_consumer(self) -> bool {
        use Role::{Consumer, LifoConsumer, PriorityConsumer, Unnester};
        matches!(self, Consumer(_) | LifoConsumer(_) | PriorityConsumer(_) | Unnester(_))
    }

    /// Whether it holds a lock now and then.
    pub(crate) fn takes_lock(self) -> bool {
        matches!(self, Role::LockHolder { .. } | Role::RLockHolder { .. } | Role::Tokens { .. })
    }
}

/// What befalls a child at a point after so many others.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Free,
    Killed(u32),
    Stopped(u32),
}

/// This process's place in the book, if it is a child.
static MINE: OnceLock<(&'static Book, &'static Slot)> = OnceLock::new();

/// A child begins here, and ends. `file` is the region's.
pub(crate) fn begin(role: Role, book: &'static Book, slot: &'static Slot, file: BorrowedFd<'_>, fate: Fate) -> ! {
    let _ = MINE.set((book, slot));
    std::panic::set_hook(Box::new(move |panic| book.fail(&format_args!("{role:?}: {panic}"))));
    let result = catch_unwind(AssertUnwindSafe(|| {
        match fate {
            Fate::Free => doom(None),
            Fate::Killed(points) => doom(Some((points, die))),
            Fate::Stopped(points) => doom(Some((points, stop))),
        };
        // SAFETY: the kernel is told that this ends when its parent does.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let region = Box::leak(Box::new(Region::open(file).expect("the region is there")));
        let me = region.register().expect("there are numbers");
        slot.peer.store(u32::from(me.get()), Ordering::SeqCst);
        let child = Child { region, me, book, slot, parker: Parker::default() };
        child.play(role);
        region.leave(me);
    }));
    // SAFETY: the harness of the tests is the parent's.
    unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) }
}

fn die(point: &'static str) {
    if let Some((book, slot)) = MINE.get() {
        slot.note_point(point);
        book.killed[slot.peer.load(Ordering::SeqCst) as usize].store(nanoseconds(), Ordering::SeqCst);
    }
    loop {
        // SAFETY: no memory is passed.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

fn stop(point: &'static str) {
    let Some((book, slot)) = MINE.get() else { return };
    slot.note_point(point);
    // Either the parent waits for us, or we see that it will not have us go on any more.
    slot.stops.store(true, Ordering::SeqCst);
    if !book.stops() {
        // SAFETY: as above. The parent has it go on.
        unsafe { libc::raise(libc::SIGSTOP) };
        doom(Some(((nanoseconds() % 500) as u32, stop)));
    }
    slot.stops.store(false, Ordering::SeqCst);
}

struct Child {
    region: &'static Region,
    me: PeerId,
    book: &'static Book,
    slot: &'static Slot,
    parker: Parker,
}

impl Child {
    fn play(&self, role: Role) {
        match role {
            Role::Producer(queue, stream) => self.produce(&self.attach(queue), stream),
            Role::Consumer(queue) => self.consume(&self.attach(queue)),
            Role::LifoProducer(queue, stream) => self.produce_ordered::<Lifo>(&self.attach(queue), stream),
            Role::LifoConsumer(queue) => self.consume_ordered::<Lifo>(&self.attach(queue)),
            Role::PriorityProducer(queue, stream) => self.produce_ordered::<Priority>(&self.attach(queue), stream),
            Role::PriorityConsumer(queue) => self.consume_ordered::<Priority>(&self.attach(queue)),
            Role::Nester(queue, stream) => self.nest(&self.attach(queue), stream),
            Role::Unnester(queue) => self.unnest(&self.attach(queue)),
            Role::LockHolder { lock, memory } => self.hold(&self.attach(lock), &self.attach(memory)),
            Role::RLockHolder { lock, memory } => self.hold_again(&self.attach(lock), &self.attach(memory)),
            Role::Tokens { lock, conditions, memory, takes } => {
                let conditions = conditions.map(|condition| self.attach(condition));
                self.pass_tokens(&self.attach(lock), &conditions, &self.attach(memory), takes);
            }
            Role::BarrierMember(barrier) => self.meet(&self.attach(barrier)),
            Role::SemaphoreHolder(semaphore) => self.share(&self.attach(semaphore)),
            Role::Setter(flag) => self.set(&self.attach(flag)),
            Role::FlagWaiter(flag) => self.wait_for_flag(&self.attach(flag)),
            Role::Attacher(objects) => self.take_and_leave(objects),
            Role::Recoverer => {
                while !self.book.stops() {
                    self.region.recover_dead(self.me);
                    thread::yield_now();
                }
            }
        }
    }

    fn owner(&self) -> Owner {
        Owner { peer: self.me, thread: std::process::id() }
    }

    fn attach<T: SharedState>(&self, id: ObjectId) -> Handle<'static, T> {
        self.region.attach(id, self.me).expect("the parent has a handle")
    }

    /// Notes what it does, does it, and notes how long that took.
    fn wait<T>(&self, doing: Doing, act: impl FnOnce(&Patience<'_>) -> T) -> T {
        self.slot.begin(doing);
        let watch = Watch { region: self.region, me: self.me };
        let deadline = Instant::now() + HANG;
        let patience = Patience::new(Some(deadline), Duration::from_micros(5), &self.parker).watching(&watch);
        let result = act(&patience);
        self.book.counts.longest_wait.fetch_max(self.slot.time().as_nanos() as u64, Ordering::SeqCst);
        result
    }

    // --- queues ----------------------------------------------------------------------------------------------------

    /// Puts messages by `put` until it is told to stop.
    fn produce_by(&self, stream: usize, mut put: impl FnMut(Number)) {
        let [begun, done, _] = &self.book.counts.empty;
        while !self.book.stops() {
            let Some(number) = self.book.begin(stream) else { return };
            let number = Number { stream, number };
            if number.is_empty() {
                begun.fetch_add(1, Ordering::SeqCst);
            }
            put(number);
            if number.is_empty() {
                done.fetch_add(1, Ordering::SeqCst);
            } else {
                self.book.note(stream, number.number, PUT);
            }
            self.slot.begin(Doing::Nothing);
        }
    }

    fn put(&self, queue: &Queue, message: &mut Message<'_>) {
        self.wait(Doing::Putting, |patience| queue.put(message, self.region, self.me, Some(patience)))
            .expect("there will be a place");
    }

    fn produce(&self, queue: &Queue, stream: usize) {
        self.produce_by(stream, |number| self.put(queue, &mut number.message(self.region, self.me)));
    }

    /// The next message, until there will be none.
    fn get(&self, queue: &Queue) -> Option<Message<'static>> {
        let mut message = Message::new(self.region, self.me);
        message.prepare(u64::MAX);
        let result =
            self.wait(Doing::Getting, |patience| queue.get(&mut message, self.region, self.me, Some(patience)));
        match result {
            Ok(()) => Some(message),
            Err(GetError::ShutDown) => None,
            Err(error) => panic!("get: {error}; {} messages are there", queue.len()),
        }
    }

    fn consume(&self, queue: &Queue) {
        let mut ledger = Ledger::new(self.book, queue.redelivers());
        while let Some(message) = self.get(queue) {
            let number = ledger.got(&message);
            drop(message);
            if queue.redelivers() {
                thread::yield_now(); // the time in which it is worked on, and its consumer may die
                self.slot.begin(Doing::Acknowledging);
                queue.task_done(self.region).expect("it has got one");
                if let Some(Number { stream, number }) = number {
                    self.book.note(stream, number, DONE);
                }
            }
            self.slot.begin(Doing::Nothing);
        }
    }

    fn nest(&self, queue: &Queue, stream: usize) {
        self.produce_by(stream, |number| {
            let inner = self.region.create_queue(self.me, 0).expect("there is memory");
            self.put(&inner, &mut number.message(self.region, self.me));
            self.put(queue, &mut reference(self.region, self.me, inner.id()));
        });
    }

    fn unnest(&self, queue: &Queue) {
        let mut ledger = Ledger::new(self.book, false);
        while let Some(outer) = self.get(queue) {
            let inner = self.attach::<Queue>(referred(&outer));
            ledger.got(&self.get(&inner).expect("a queue that arrives has its message"));
            self.slot.begin(Doing::Nothing);
        }
    }

    /// Does it as soon as it may be done.
    fn perform<O: Order, P: Operation<O>>(
        &self,
        doing: Doing,
        queue: &OrderedQueue<O>,
        operation: &mut P,
    ) -> Result<(), P::Error> {
        self.wait(doing, |patience| {
            loop {
                let turn = match queue.wait_for_change(operation, self.region, self.owner(), patience) {
                    Ok(Outcome::Performed(result)) => return result,
                    Ok(Outcome::Undecided(turn)) => turn,
                    Err(error) => panic!("{doing:?}: {error}; {} messages are there", queue.len()),
                };
                match queue.wait_for_lock(operation, self.region, self.owner(), patience) {
                    Ok(Outcome::Performed(Err(error))) if error == P::NOT_YET => drop(turn),
                    Ok(Outcome::Performed(result)) => return result,
                    Ok(Outcome::Undecided(_)) => panic!("keys decide"),
                    Err(error) => panic!("{doing:?}: {error}; {} messages are there", queue.len()),
                }
            }
        })
    }

    fn produce_ordered<O: Order>(&self, queue: &OrderedQueue<O>, stream: usize) {
        self.produce_by(stream, |number| {
            let mut message = number.message(self.region, self.me);
            let (messages, keys) = (core::slice::from_mut(&mut message), [key(number)]);
            self.perform(Doing::Putting, queue, &mut Put { messages, keys: &keys, put: 0 })
                .expect("there will be a place");
        });
    }

    fn consume_ordered<O: Order>(&self, queue: &OrderedQueue<O>) {
        let mut ledger = Ledger::without_order(self.book);
        loop {
            let mut message = Message::new(self.region, self.me);
            message.prepare(u64::MAX);
            match self.perform(Doing::Getting, queue, &mut Get { message: &mut message, quietly: false }) {
                Ok(()) => drop(ledger.got(&message)),
                Err(GetError::ShutDown) => return,
                Err(error) => panic!("get: {error}"),
            }
            self.slot.begin(Doing::Nothing);
        }
    }

    // --- locks -----------------------------------------------------------------------------------------------------

    /// Takes a lock; whether somebody had died who held it.
    fn take(&self, mut acquire: impl FnMut(&Patience<'_>) -> Result<(), AcquireError>) -> bool {
        let mut was_told = false;
        loop {
            let began = nanoseconds();
            match self.wait(Doing::Acquiring, &mut acquire) {
                Ok(()) => break,
                Err(AcquireError::OwnerDied(died)) => {
                    self.note_told(died, began);
                    was_told = true;
                }
                Err(error) => panic!("acquire: {error}"),
            }
        }
        self.slot.begin(Doing::Inside);
        was_told
    }

    fn note_told(&self, died: OwnerDied, began: u64) {
        let counts = &self.book.counts;
        counts.told.fetch_add(1, Ordering::SeqCst);
        let killed = self.book.killed[usize::from(died.peer)].load(Ordering::SeqCst);
        counts.longest_until_told.fetch_max(nanoseconds().saturating_sub(killed.max(began)), Ordering::SeqCst);
    }

    fn hold(&self, lock: &SharedLock, memory: &Handle<'_, SharedMemory>) {
        while !self.book.stops() {
            self.take(|patience| lock.acquire(self.owner(), patience));
            step(self.book, memory);
            self.slot.begin(Doing::Nothing);
            lock.release(self.region.bell()).expect("it is held");
        }
    }

    fn hold_again(&self, lock: &SharedRLock, memory: &Handle<'_, SharedMemory>) {
        let me = self.owner();
        while !self.book.stops() {
            self.take(|patience| lock.restore(me, 1, patience));
            assert_eq!(lock.try_acquire(me), Ok(true));
            step(self.book, memory);
            lock.release(me, self.region.bell()).expect("it is held");
            assert!(lock.is_owned(me), "it was taken twice");
            self.slot.begin(Doing::Nothing);
            lock.release(me, self.region.bell()).expect("it is held");
        }
    }

    // --- waits -----------------------------------------------------------------------------------------------------

    fn pass_tokens(
        &self,
        lock: &SharedLock,
        [some, room]: &[Handle<'_, SharedCondition>; 2],
        memory: &Handle<'_, SharedMemory>,
        takes: bool,
    ) {
        let tokens = memory.element(2).expect("it has as many");
        // Whoever died may have changed the number and called nobody.
        let take = || {
            if self.take(|patience| lock.acquire(self.owner(), patience)) {
                [some, room].into_iter().for_each(|condition| condition.notify_all(self.region));
            }
        };
        let release = || {
            self.slot.begin(Doing::Nothing);
            lock.release(self.region.bell()).expect("it is held");
        };
        let wait_for = |condition: &Condition| {
            let sitting = condition.sit(self.region, self.owner()).expect("there is memory");
            release();
            let called = self.wait(Doing::Waiting, |patience| sitting.wait(patience));
            take();
            condition.leave(sitting);
            assert_eq!(called, Ok(Call::Called), "a condition, with {} tokens", tokens.load());
        };
        while !self.book.stops() {
            take();
            let is_ready = || if takes { tokens.load() > 0 } else { tokens.load() < MOST_TOKENS };
            while !is_ready() && !self.book.stops() {
                wait_for(if takes { some } else { room });
            }
            if is_ready() {
                let now = if takes { tokens.load() - 1 } else { tokens.load() + 1 };
                assert!(now <= MOST_TOKENS);
                tokens.store(now);
                (if takes { room } else { some }).notify(self.region, 1);
            }
            release();
        }
    }

    fn meet(&self, barrier: &SharedBarrier) {
        while !self.book.stops() {
            let arrival = self.wait(Doing::Waiting, |patience| {
                barrier.arrive(self.region, self.owner(), self.region.bell(), patience)
            });
            let passed = match arrival {
                Ok(Arrival::Last(last)) => last.release(self.region, self.region.bell()).is_ok(),
                Ok(Arrival::Waiting(_, sitting)) => {
                    let called = self.wait(Doing::Waiting, |patience| sitting.wait(patience));
                    called.expect("somebody arrives, or dies") == Call::Called
                }
                Err(BarrierError::Broken) => false,
                Err(error) => panic!("arrive: {error}"),
            };
            if !passed && barrier.is_broken() && !self.book.stops() {
                barrier.reset(self.region, self.region.bell());
            }
            self.slot.begin(Doing::Nothing);
        }
    }

    fn share(&self, semaphore: &SharedSemaphore) {
        while !self.book.stops() {
            self.wait(Doing::Waiting, |patience| semaphore.acquire(self.me, self.region.bell(), patience))
                .expect("one is given back, or its holder dies");
            semaphore.release(self.me, 1, self.region.bell()).expect("it was taken");
            self.slot.begin(Doing::Nothing);
        }
    }

    fn set(&self, flag: &SharedFlag) {
        while !self.book.stops() {
            flag.set(self.region.bell());
            flag.clear();
            thread::yield_now();
        }
    }

    fn wait_for_flag(&self, flag: &SharedFlag) {
        while !self.book.stops() {
            let seen = flag.now();
            self.wait(Doing::Waiting, |patience| flag.wait(seen, self.region.bell(), patience)).expect("it is set");
            self.slot.begin(Doing::Nothing);
        }
    }

    // --- handles ---------------------------------------------------------------------------------------------------

    fn take_and_leave(&self, [queue, lock]: [ObjectId; 2]) {
        let mut dice = Dice(nanoseconds());
        let (mut queues, mut locks, mut memories) = (Vec::new(), Vec::new(), Vec::new());
        while !self.book.stops() {
            match dice.below(8) {
                0 => queues.push(self.attach::<Queue>(queue)),
                1 => locks.push(self.attach::<SharedLock>(lock)),
                2 => locks.push(self.region.create_shared::<Lock>(self.me, |_| {}).expect("there is memory")),
                3 => {
                    let made = self.region.create_queue(self.me, 0).expect("there is memory");
                    let number = Number { stream: STREAMS, number: dice.below(1 << 20) as u64 };
                    self.put(&made, &mut number.message(self.region, self.me));
                    queues.push(made);
                }
                4 => {
                    let format = Format { meaning: 0, width: 1 };
                    memories.push(self.region.create_memory(self.me, format, dice.below(1 << 18)).expect("memory"));
                }
                5 => drop(queues.pop()),
                6 => drop(locks.pop()),
                _ => drop(memories.pop()),
            }
            if queues.len() + locks.len() + memories.len() > 40 {
                (queues, locks, memories) = (Vec::new(), Vec::new(), Vec::new());
            }
        }
    }
}

/// A priority that many messages have in common.
fn key(number: Number) -> Key {
    let mut encoder = Encoder::default();
    encoder.integer((number.number * 37 % 50) as i64);
    encoder.finish()
}

/// A step of a number that a lock guards: first in one word, then in another. Whoever finds them different had a
/// predecessor who died between the two.
pub(crate) fn step(book: &Book, memory: &Handle<'_, SharedMemory>) {
    let [begun, done] = [0, 1].map(|place| memory.element(place).expect("it has as many"));
    let number = begun.load();
    if done.load() != number {
        assert_eq!(done.load() + 1, number, "a step is half made, or made");
        book.counts.mended.fetch_add(1, Ordering::SeqCst);
        done.store(number);
    }
    begun.store(number + 1);
    thread::yield_now();
    assert_eq!((begun.load(), done.load()), (number + 1, number), "nobody else is inside");
    done.store(number + 1);
    book.counts.steps.fetch_add(1, Ordering::SeqCst);
}

/// What a consumer knows of the messages that it gets.
pub(crate) struct Ledger {
    book: &'static Book,
    redelivers: bool,
    in_order: bool,
    last: [u64; STREAMS],
}

impl Ledger {
    pub(crate) fn new(book: &'static Book, redelivers: bool) -> Ledger {
        Ledger { book, redelivers, in_order: true, last: [0; STREAMS] }
    }

    pub(crate) fn without_order(book: &'static Book) -> Ledger {
        Ledger { in_order: false, ..Ledger::new(book, false) }
    }

    /// Checks and notes a message that was got.
    pub(crate) fn got(&mut self, message: &Message<'_>) -> Option<Number> {
        let counts = &self.book.counts;
        let again = message.is_redelivered();
        assert!(self.redelivers || !again, "only some queues deliver again");
        if again {
            counts.redelivered.fetch_add(1, Ordering::SeqCst);
        }
        let Some(number) = Number::of(message) else {
            counts.empty[2].fetch_add(1, Ordering::SeqCst);
            return None;
        };
        let known = self.book.note(number.stream, number.number, GOT);
        assert!(known & BEGUN != 0, "{number:?} was never put");
        assert!(known & GOT == 0 || again, "{number:?} is there twice");
        assert!(known & DONE == 0, "{number:?} comes again, though it was acknowledged");
        let last = &mut self.last[number.stream];
        if self.in_order && !again && number.number < *last {
            counts.late.fetch_add(1, Ordering::SeqCst);
        }
        *last = number.number.max(*last);
        Some(number)
    }
}

const _: () = assert!(SLOTS >= 8);
