//! Storms: children of this process work on one region and are killed at random moments, or at points between two steps
//! of the engine; new ones take their places. Those that live go on, and nothing that was acknowledged is lost.
//!
//! A round has some children and the objects that they share. What they do they write down, in memory that survives
//! them (`book`); messages say which they are, and each of their bytes is checked. When the round ends, nobody is killed
//! any more, all come to an end by themselves, and the parent compares what was written down with what it finds. A wait
//! that takes longer than [`HANG`] is a fault.
//!
//! `MULTIGIL_KILLS` says how many are killed; `make soak` sets it.

#![cfg(all(target_os = "linux", feature = "faults"))]
#![expect(
    unsafe_code,
    clippy::disallowed_types,
    reason = "fork and kill; what is written down is no part of the engine"
)]

mod book;
mod crew;
#[path = "../support/dice.rs"]
mod dice;
mod limits;
mod payload;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use multigil::barrier::Barrier;
use multigil::condition::Condition;
use multigil::control::AnyQueue;
use multigil::error::{AcquireError, OwnerDied};
use multigil::event::{Parker, Patience};
use multigil::flag::Flag;
use multigil::layout::PeerId;
use multigil::lock::{Lock, Owner, RLock};
use multigil::memory::Format;
use multigil::object::{Handle, Message, Region, Statistics, Watch};
use multigil::ordered::{Contender, Get, Lifo, Operation, Order, OrderedQueue, Priority};
use multigil::queue::Queue;
use multigil::semaphore::Semaphore;

use crate::book::{Book, Counts, Doing, GOT, PUT, SLOTS, nanoseconds};
use crate::crew::{Fate, HANG, Ledger, Role, begin, step};
use crate::dice::Dice;
use crate::payload::referred;
use crate::support::limit;

/// A child inherits all descriptors, and with them the locks of other tests' participants: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens to children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// `SIGKILL`.
    Kills,
    /// `SIGSTOP`, and `SIGCONT` 1 to 50 ms later.
    Stops,
}

/// At most so many of them in a round.
const MOST_STROKES: usize = 50;

/// A child of the parent's.
#[derive(Clone, Copy, Debug)]
struct Child {
    role: Role,
    process: libc::pid_t,
    /// Whether it may be killed.
    is_mortal: bool,
}

/// What came of all rounds.
#[derive(Debug, Default)]
struct Report {
    rounds: usize,
    kills: usize,
    stops: usize,
    acknowledged: usize,
    /// Taken by consumers that died before they said so.
    gone_with_consumers: usize,
    late: u64,
    redelivered: u64,
    told: u64,
    mended: u64,
    longest_wait: Duration,
    longest_until_told: Duration,
    /// The longest time in which all that the dead of a round's end had left was put right.
    longest_recovery: Duration,
    /// How many died where, or were stopped there.
    points: BTreeMap<String, usize>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { rounds, kills, stops, acknowledged, gone_with_consumers, late, redelivered, told, mended, .. } =
            self;
        writeln!(f, "{rounds} rounds, {kills} kills, {stops} stops")?;
        writeln!(
            f,
            "{acknowledged} messages acknowledged, none lost, {gone_with_consumers} gone with their consumers"
        )?;
        writeln!(
            f,
            "{redelivered} delivered again and marked, {late} after a later one, when their consumer had died"
        )?;
        writeln!(
            f,
            "{told} times was told that a lock's owner had died, {mended} times found what it guards half done"
        )?;
        writeln!(f, "longest wait {:?}, from death to being told {:?}", self.longest_wait, self.longest_until_told)?;
        writeln!(f, "longest recovery at the end of a round {:?}", self.longest_recovery)?;
        write!(f, "{} points:", self.points.len())?;
        self.points.iter().try_for_each(|(point, count)| write!(f, " {point} {count}"))
    }
}

/// A round while it goes on.
struct Round<'r> {
    region: &'r Region,
    me: PeerId,
    book: &'static Book,
    weather: Weather,
    dice: &'r mut Dice,
    report: &'r mut Report,
    crew: [Option<Child>; SLOTS],
    /// Who is stopped, and until when.
    stopped: Vec<(usize, Instant)>,
    /// How many there were, and will be.
    strokes: [usize; 2],
    deaths: Deaths,
}

/// Who died in a round, doing what.
#[derive(Debug, Default)]
struct Deaths {
    all: u64,
    /// Before it had written down what it got.
    getting: u64,
    producers: u64,
    /// With a lock that it surely held.
    inside: u64,
    /// When it may just have been told of another one's death.
    acquiring: u64,
    with_locks: u64,
}

impl<'r> Round<'r> {
    fn spawn(&mut self, slot: usize, role: Role, is_mortal: bool, fate: Fate) {
        self.book.slots[slot].clear();
        // SAFETY: the child only uses what it makes itself, and leaves by `_exit`.
        let process = unsafe { libc::fork() };
        assert!(process >= 0, "{}", std::io::Error::last_os_error());
        if process == 0 {
            begin(role, self.book, &self.book.slots[slot], self.region.file(), fate);
        }
        self.book.slots[slot].process.store(process, Ordering::SeqCst);
        self.crew[slot] = Some(Child { role, process, is_mortal });
    }

    /// A third of the mortal end at a point.
    fn fate(&mut self, is_mortal: bool) -> Fate {
        // Early points more often: there are many kinds of them.
        let points = (1 << self.dice.below(12)) as u32;
        let points = points + self.dice.below(points as usize) as u32 - 1;
        match self.weather {
            Weather::Stops => Fate::Stopped(points),
            Weather::Kills if is_mortal && self.dice.below(3) == 0 => Fate::Killed(points),
            Weather::Kills => Fate::Free,
        }
    }

    /// Sees who has ended. While it storms, others take their places.
    fn reap(&mut self, storms: bool) {
        for slot in 0..SLOTS {
            let Some(child) = self.crew[slot] else { continue };
            let mut status = 0;
            // SAFETY: the kernel fills the live number.
            let ended = unsafe { libc::waitpid(child.process, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
            if ended == 0 {
                continue;
            }
            assert_eq!(ended, child.process);
            if libc::WIFSTOPPED(status) {
                if !self.stopped.iter().any(|(stopped, _)| *stopped == slot) {
                    let until = Instant::now() + Duration::from_millis(1 + self.dice.below(50) as u64);
                    self.stopped.push((slot, until));
                    self.strokes[0] += 1;
                    self.report.stops += 1;
                    self.note_point(slot);
                }
                continue;
            }
            self.crew[slot] = None;
            self.stopped.retain(|(stopped, _)| *stopped != slot);
            if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
                continue; // it has done all that there was to do
            }
            let is_killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
            if !is_killed {
                self.give_up(&format!("{:?} ended with status {status:#x}", child.role));
            }
            self.note_death(slot, child.role);
            let fate = if storms { self.fate(child.is_mortal) } else { Fate::Free };
            self.spawn(slot, child.role, child.is_mortal, fate);
        }
        let now = Instant::now();
        self.stopped.retain(|(slot, until)| {
            let goes_on = now >= *until;
            if let (true, Some(child)) = (goes_on, self.crew[*slot]) {
                // SAFETY: the child is ours, and not waited for yet.
                unsafe { libc::kill(child.process, libc::SIGCONT) };
            }
            !goes_on
        });
    }

    fn note_point(&mut self, slot: usize) {
        if let Some(point) = self.book.slots[slot].point() {
            *self.report.points.entry(point).or_default() += 1;
        }
    }

    fn note_death(&mut self, slot: usize, role: Role) {
        self.report.kills += 1;
        self.strokes[0] += 1;
        self.note_point(slot);
        let doing = self.book.slots[slot].doing();
        let Deaths { all, getting, producers, inside, acquiring, with_locks } = &mut self.deaths;
        *all += 1;
        *getting += u64::from(doing == Doing::Getting);
        *producers += u64::from(doing == Doing::Putting);
        *inside += u64::from(doing == Doing::Inside);
        *acquiring += u64::from(doing == Doing::Acquiring);
        *with_locks += u64::from(role.takes_lock());
    }

    /// Kills or stops somebody.
    fn strike(&mut self) {
        let slot = self.dice.below(SLOTS);
        let Some(child) = self.crew[slot].filter(|child| child.is_mortal) else { return };
        if self.weather == Weather::Stops {
            // SAFETY: the child is ours, and not waited for yet.
            unsafe { libc::kill(child.process, libc::SIGSTOP) };
            return;
        }
        let peer = self.book.slots[slot].peer.load(Ordering::SeqCst);
        self.book.killed[peer as usize].store(nanoseconds(), Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { libc::kill(child.process, libc::SIGKILL) };
    }

    fn storm(&mut self) {
        let began = Instant::now();
        while self.strokes[0] < self.strokes[1] && self.crew.iter().flatten().any(|child| child.is_mortal) {
            thread::sleep(Duration::from_micros(100 + self.dice.below(2900) as u64));
            self.strike();
            self.reap(true);
            if began.elapsed() > HANG * 3 {
                self.give_up("the storm does not end");
            }
        }
    }

    /// Ends the round: first those end who stop when they are told to, then consumers. `wake` lets go who waits.
    fn end(&mut self, wake: impl Fn(), shut_down: impl Fn()) {
        self.book.stop.store(true, Ordering::SeqCst);
        let began = Instant::now();
        // From here on the parent waits for what its children hold: none of them waits for it.
        for child in self.crew.iter().flatten() {
            // SAFETY: the child is ours, and not waited for yet.
            unsafe { libc::kill(child.process, libc::SIGCONT) };
        }
        while self.book.slots.iter().any(|slot| slot.stops.load(Ordering::SeqCst)) || !self.stopped.is_empty() {
            self.reap(false);
            if began.elapsed() > HANG {
                self.give_up("a child does not go on");
            }
        }
        let mut is_shut_down = false;
        loop {
            self.reap(false);
            if self.crew.iter().flatten().all(|child| child.role.is_consumer()) && !is_shut_down {
                shut_down();
                is_shut_down = true;
            }
            if self.crew.iter().all(Option::is_none) {
                return;
            }
            wake();
            if began.elapsed() > HANG * 2 {
                self.give_up("the round does not end");
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Ends all children and says what is known.
    fn give_up(&mut self, reason: &str) -> ! {
        let mut about = format!("{reason}\n{}\n", self.book.failure().unwrap_or_default());
        for (slot, child) in self.crew.iter().enumerate() {
            let Some(Child { role, process, .. }) = child else { continue };
            let known = &self.book.slots[slot];
            let read = |what| std::fs::read_to_string(format!("/proc/{process}/{what}")).unwrap_or_default();
            let (doing, time, point) = (known.doing(), known.time(), known.point());
            let (state, wait) = (read("stat"), read("wchan"));
            let state = state.split(' ').nth(2).unwrap_or("?").to_owned();
            about += &format!("{slot}: {role:?} {doing:?} for {time:?} {point:?}, process {process} {state} {wait}\n");
        }
        for child in self.crew.iter_mut().filter_map(Option::take) {
            // SAFETY: the child is ours; the kernel is given no memory.
            unsafe {
                libc::kill(child.process, libc::SIGKILL);
                libc::waitpid(child.process, core::ptr::null_mut(), 0);
            }
        }
        about += &format!("{:?}\n{:?}\n{:?}", self.region.statistics(), self.deaths, self.book.counts);
        panic!("{about}");
    }

    /// All messages that were put were got. What those took with them who died is known as well as can be.
    fn check_messages(&mut self, redelivers: bool) {
        let mut missing = 0;
        let mut unsaid = 0;
        for known in self.book.messages() {
            self.report.acknowledged += usize::from(known & PUT != 0);
            missing += u64::from(known & (PUT | GOT) == PUT);
            unsaid += u64::from(known & (PUT | GOT) == GOT);
        }
        let Counts { empty, late, redelivered, .. } = &self.book.counts;
        let [begun, put, got] = empty.each_ref().map(|count| count.load(Ordering::SeqCst));
        let (late, redelivered) = (late.load(Ordering::SeqCst), redelivered.load(Ordering::SeqCst));
        self.report.acknowledged += put as usize;
        self.report.gone_with_consumers += missing as usize;
        (self.report.late, self.report.redelivered) = (self.report.late + late, self.report.redelivered + redelivered);
        let Deaths { getting, producers, all, .. } = self.deaths;
        let about = format!("{:?} {:?}", self.deaths, self.book.counts);
        let most_gone = if redelivers { 0 } else { getting };
        assert!(missing + put.saturating_sub(got) <= most_gone, "{missing} messages are lost: {about}");
        assert!(got <= begun + redelivered, "messages without bytes are there twice: {about}");
        assert!(unsaid <= producers, "{unsaid} messages were got and not put: {about}");
        assert!(late <= getting, "{late} messages came after later ones: {about}");
        assert!(redelivered <= all, "{redelivered} messages were delivered again: {about}");
    }

    /// Whoever surely held a lock when it died was told of, and nobody of whom it is not so.
    fn check_told(&mut self) {
        let [told, mended] =
            [&self.book.counts.told, &self.book.counts.mended].map(|count| count.load(Ordering::SeqCst));
        (self.report.told, self.report.mended) = (self.report.told + told, self.report.mended + mended);
        let Deaths { inside, acquiring, with_locks, .. } = self.deaths;
        let about = format!("{:?} {:?}", self.deaths, self.book.counts);
        assert!(inside <= told + acquiring && told <= with_locks, "who died with a lock is told of once: {about}");
        assert!(mended <= inside, "what a lock guards is half done only if its owner died: {about}");
    }
}

// ---------------------------------------------------------------------------------------------- scenes

/// A queue that is shut down in the end, and what the parent finds in it then.
trait Drained {
    fn shut_down(&self, region: &Region, me: PeerId);
    fn next(&self, message: &mut Message<'_>, region: &Region, me: PeerId) -> bool;
    fn begin_ledger(&self, book: &'static Book) -> Ledger;
    fn acknowledge(&self, _region: &Region) {}
}

impl Drained for Queue {
    fn shut_down(&self, region: &Region, me: PeerId) {
        Queue::shut_down(self, false, region, me);
    }

    fn next(&self, message: &mut Message<'_>, region: &Region, me: PeerId) -> bool {
        self.get(message, region, me, None).is_ok()
    }

    fn begin_ledger(&self, book: &'static Book) -> Ledger {
        Ledger::new(book, self.redelivers())
    }

    fn acknowledge(&self, region: &Region) {
        if self.redelivers() {
            self.task_done(region).unwrap();
        }
    }
}

impl<O: Order> Drained for OrderedQueue<O> {
    fn shut_down(&self, region: &Region, me: PeerId) {
        let mine = Owner { peer: me, thread: 0 };
        with_patience(region, me, |patience| self.lock(region, mine, patience).unwrap().shut_down(false).unwrap());
    }

    fn next(&self, message: &mut Message<'_>, region: &Region, me: PeerId) -> bool {
        let mut locked = self.try_lock(region, Owner { peer: me, thread: 0 }).unwrap().expect("all others are dead");
        let decide = |_: Contender<'_, '_>, _: Contender<'_, '_>| -> Result<bool, ()> { unreachable!("keys decide") };
        Get { message, quietly: false }.perform(&mut locked, decide).is_ok()
    }

    fn begin_ledger(&self, book: &'static Book) -> Ledger {
        Ledger::without_order(book)
    }
}

fn with_patience<T>(region: &Region, me: PeerId, act: impl FnOnce(&Patience<'_>) -> T) -> T {
    let (parker, watch) = (Parker::default(), Watch { region, me });
    act(&Patience::new(Some(Instant::now() + HANG), Duration::ZERO, &parker).watching(&watch))
}

impl Round<'_> {
    /// A round of these roles; those that are true may be killed.
    fn play(&mut self, cast: &[(Role, bool)], wake: impl Fn(), shut_down: impl Fn()) {
        for (slot, (role, is_mortal)) in cast.iter().enumerate() {
            let fate = self.fate(*is_mortal);
            self.spawn(slot, *role, *is_mortal, fate);
        }
        self.storm();
        self.end(wake, shut_down);
        let began = Instant::now();
        self.region.recover_dead(self.me);
        self.report.longest_recovery = self.report.longest_recovery.max(began.elapsed());
    }

    fn play_queue(&mut self, queue: &(impl Drained + AnyQueue), cast: &[(Role, bool)]) {
        let (region, me, book) = (self.region, self.me, self.book);
        self.play(cast, || {}, || queue.shut_down(region, me));
        let mut ledger = queue.begin_ledger(book);
        let mut message = Message::new(region, me);
        message.prepare(u64::MAX);
        while queue.next(&mut message, region, me) {
            if cast.iter().any(|(role, _)| matches!(role, Role::Unnester(_))) {
                let inner = region.attach::<Queue>(referred(&message), me).unwrap();
                assert!(inner.next(&mut message, region, me));
            }
            ledger.got(&message);
            queue.acknowledge(region);
        }
        assert_eq!(queue.len(), 0);
    }
}

/// A queue that grows; both consumers may die.
fn growing(round: &mut Round<'_>) {
    let queue = round.region.create_queue(round.me, 0).unwrap();
    let id = queue.id();
    let cast = [Role::Producer(id, 0), Role::Producer(id, 1), Role::Consumer(id), Role::Consumer(id)];
    round.play_queue(&*queue, &cast.map(|role| (role, true)));
    round.check_messages(false);
}

/// Only producers die: nothing is lost at all, and nothing is late.
fn producers_only(round: &mut Round<'_>) {
    let queue = round.region.create_queue(round.me, 100).unwrap();
    let id = queue.id();
    let cast = [Role::Producer(id, 0), Role::Producer(id, 1), Role::Producer(id, 2), Role::Consumer(id)];
    round.play_queue(&*queue, &cast.map(|role| (role, !role.is_consumer())));
    assert_eq!(round.deaths.getting, 0);
    round.check_messages(false);
}

/// A small bounded queue, where all wait for each other.
fn bounded(round: &mut Round<'_>) {
    let queue = round.region.create_queue(round.me, 3).unwrap();
    let id = queue.id();
    let cast = [Role::Producer(id, 0), Role::Producer(id, 1), Role::Consumer(id), Role::Consumer(id), Role::Recoverer];
    round.play_queue(&*queue, &cast.map(|role| (role, true)));
    round.check_messages(false);
}

/// A queue that delivers again what was not acknowledged: nothing is lost, whoever dies.
fn redelivering(round: &mut Round<'_>) {
    let queue = round.region.create_queue(round.me, 40).unwrap();
    assert!(queue.set_redelivers(true, round.region, round.me));
    let id = queue.id();
    let cast = [Role::Producer(id, 0), Role::Producer(id, 1), Role::Consumer(id), Role::Consumer(id)];
    round.play_queue(&*queue, &cast.map(|role| (role, true)));
    round.check_messages(true);
    assert_eq!(queue.unfinished(), 0);
}

fn last_in_first_out(round: &mut Round<'_>) {
    let queue = round.region.create_ordered_queue::<Lifo>(round.me, 0).unwrap();
    let id = queue.id();
    let cast = [Role::LifoProducer(id, 0), Role::LifoProducer(id, 1), Role::LifoConsumer(id), Role::LifoConsumer(id)];
    round.play_queue(&*queue, &cast.map(|role| (role, true)));
    round.check_messages(false);
}

fn by_priority(round: &mut Round<'_>) {
    let queue = round.region.create_ordered_queue::<Priority>(round.me, 70).unwrap();
    let id = queue.id();
    let cast = [
        Role::PriorityProducer(id, 0),
        Role::PriorityProducer(id, 1),
        Role::PriorityConsumer(id),
        Role::PriorityConsumer(id),
    ];
    round.play_queue(&*queue, &cast.map(|role| (role, true)));
    round.check_messages(false);
}

/// Queues in a queue, handles that come and go, and those who put things right.
fn references(round: &mut Round<'_>) {
    let queue = round.region.create_queue(round.me, 20).unwrap();
    let lock = round.region.create_shared::<Lock>(round.me, |_| {}).unwrap();
    let id = queue.id();
    let attacher = Role::Attacher([id, lock.id()]);
    let cast = [Role::Nester(id, 0), Role::Nester(id, 1), Role::Unnester(id), attacher, attacher, Role::Recoverer];
    round.play_queue(&*queue, &cast.map(|role| (role, true)));
    round.check_messages(false);
}

/// A number that is counted up under a lock, and one under a reentrant lock.
fn locks(round: &mut Round<'_>) {
    let (region, me) = (round.region, round.me);
    let lock = region.create_shared::<Lock>(me, |_| {}).unwrap();
    let again = region.create_shared::<RLock>(me, |_| {}).unwrap();
    let format = Format { meaning: 0, width: 8 };
    let memories = [0; 2].map(|_| region.create_memory(me, format, 16).unwrap());
    let holder = Role::LockHolder { lock: lock.id(), memory: memories[0].id() };
    let holder_again = Role::RLockHolder { lock: again.id(), memory: memories[1].id() };
    let cast = [holder, holder, holder, holder_again, holder_again, holder_again];
    round.play(&cast.map(|role| (role, true)), || {}, || {});
    let mine = Owner { peer: me, thread: 0 };
    let take = |acquire: &dyn Fn() -> Result<bool, OwnerDied>| {
        let was_told = acquire().map_err(|_| round.book.counts.told.fetch_add(1, Ordering::SeqCst)).is_err();
        assert!(!was_told || acquire() == Ok(true), "it is said once, and the lock is free then");
        assert_eq!(acquire(), Ok(false), "it is held now");
    };
    take(&|| lock.try_acquire(mine));
    take(&|| again.lock().try_acquire(mine));
    memories.iter().for_each(|memory| step(round.book, memory));
    round.check_told();
    let made: u64 = memories.iter().map(|memory| memory.element(1).unwrap().load()).sum();
    let said = round.book.counts.steps.load(Ordering::SeqCst);
    assert!((said..=said + round.deaths.all).contains(&made), "{said} steps were said, {made} made");
}

/// Tokens that wait to be taken, and room for them that is waited for.
fn conditions(round: &mut Round<'_>) {
    let (region, me, book) = (round.region, round.me, round.book);
    let lock = region.create_shared::<Lock>(me, |_| {}).unwrap();
    let made: [_; 2] = core::array::from_fn(|_| region.create_shared::<Condition>(me, |_| {}).unwrap());
    let memory = region.create_memory(me, Format { meaning: 0, width: 8 }, 24).unwrap();
    let conditions = made.each_ref().map(Handle::id);
    let tokens = |takes| Role::Tokens { lock: lock.id(), conditions, memory: memory.id(), takes };
    let cast = [false, false, false, true, true, true].map(|takes| (tokens(takes), true));
    let mine = Owner { peer: me, thread: 0 };
    let notify = || {
        while let Err(error) = with_patience(region, me, |patience| lock.acquire(mine, patience)) {
            assert!(matches!(error, AcquireError::OwnerDied(_)), "{error}");
            book.counts.told.fetch_add(1, Ordering::SeqCst);
        }
        made.iter().for_each(|condition| condition.notify_all(region));
        lock.release(region.bell()).unwrap();
    };
    round.play(&cast, notify, || {});
    notify();
    round.check_told();
    assert!(made.iter().all(|condition| condition.waiters().count(region) == 0), "nobody waits");
}

/// A barrier of three, two permits for four, and a flag.
fn waits(round: &mut Round<'_>) {
    let (region, me) = (round.region, round.me);
    let barrier = region.create_shared::<Barrier>(me, |barrier| barrier.initialize(3)).unwrap();
    let semaphore = region.create_shared::<Semaphore>(me, |semaphore| semaphore.initialize(2, true)).unwrap();
    let flag = region.create_shared::<Flag>(me, |_| {}).unwrap();
    let (member, holder) = (Role::BarrierMember(barrier.id()), Role::SemaphoreHolder(semaphore.id()));
    let (setter, waiter) = (Role::Setter(flag.id()), Role::FlagWaiter(flag.id()));
    let cast = [member, member, member, holder, holder, holder, holder, setter, waiter, waiter];
    let cast = cast.map(|role| (role, true));
    let wake = || {
        barrier.abort(region, region.bell());
        flag.set(region.bell());
    };
    round.play(&cast, wake, || {});
    assert_eq!(semaphore.value(), 2, "no permit is lost, and none is there twice");
    assert_eq!(barrier.waiters().count(region), 0, "nobody waits");
}

type Scene = fn(&mut Round<'_>);

const SCENES: [(&str, Scene); 10] = [
    ("growing", growing),
    ("locks", locks),
    ("bounded", bounded),
    ("waits", waits),
    ("redelivering", redelivering),
    ("references", references),
    ("conditions", conditions),
    ("last in, first out", last_in_first_out),
    ("producers only", producers_only),
    ("by priority", by_priority),
];

/// Rounds of all scenes, until so many were killed or stopped.
fn rounds(weather: Weather, strokes: usize, dice: &mut Dice) -> Report {
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    let book = Book::new();
    let mut report = Report::default();
    let in_a_round = (strokes / SCENES.len()).min(MOST_STROKES);
    while report.kills + report.stops < strokes {
        let (name, scene) = SCENES[report.rounds % SCENES.len()];
        let before = region.statistics();
        book.clear();
        let (crew, stopped, deaths) = ([None; SLOTS], Vec::new(), Deaths::default());
        let (region, report) = (&region, &mut report);
        let mut round =
            Round { region, me, book, weather, dice, report, crew, stopped, strokes: [0, in_a_round], deaths };
        scene(&mut round);
        if weather == Weather::Stops {
            assert_eq!(round.deaths.all, 0);
        }
        let after = region.statistics();
        let memory = |usage: &Statistics| (usage.memory.blocks, usage.memory.in_use);
        assert_eq!((memory(&after), after.objects), (memory(&before), before.objects), "{name}: all is given back");
        assert_eq!(after.peers, before.peers, "{name}");
        report.rounds += 1;
        if report.rounds % 200 == 0 {
            println!("{} kills and {} stops so far", report.kills, report.stops);
        }
    }
    let nanoseconds = |count: &std::sync::atomic::AtomicU64| Duration::from_nanos(count.load(Ordering::SeqCst));
    report.longest_wait = nanoseconds(&book.counts.longest_wait);
    report.longest_until_told = nanoseconds(&book.counts.longest_until_told);
    report
}

/// So many as the environment says, or else as a test has time for.
fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn storm_of_kills() {
    let _alone = alone();
    let kills = number("MULTIGIL_KILLS", 500);
    let _limit = limit(120 + kills as u64 / 10);
    let seed = number("MULTIGIL_SEED", 1) as u64;
    let report = rounds(Weather::Kills, kills, &mut Dice(seed));
    println!("{report}");
    assert!(report.kills >= kills && report.points.len() > 10 && report.told > 0 && report.redelivered > 0);
    // 100 ms on a machine that has nothing else to do.
    assert!(report.longest_until_told < Duration::from_secs(2), "{:?}", report.longest_until_told);
}

/// Whoever is only stopped is not dead: all wait for it, and nothing is lost or told.
#[test]
fn storm_of_stops() {
    let _alone = alone();
    let stops = number("MULTIGIL_STOPS", 200);
    let _limit = limit(120 + stops as u64 / 10);
    let report = rounds(Weather::Stops, stops, &mut Dice(2));
    println!("{report}");
    assert_eq!((report.kills, report.told, report.redelivered, report.gone_with_consumers), (0, 0, 0, 0));
    assert!(report.stops >= stops && report.points.len() > 10);
}
