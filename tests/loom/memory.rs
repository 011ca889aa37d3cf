//! Waiting for a change of an element.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::error::WaitError;
use multigil::event::Patience;
use multigil::memory::Changes;
use multigil::model::{AtomicU64, Part};

use crate::{check, twin};

/// A ring in which a consumer still reads is not given back; its memory's next user and that consumer never meet.
fn slow_reader() {
    let line = Arc::new(Line::with(&[1, 1], &[1, 2]));
    let consumer = || {
        let line = line.clone();
        thread::spawn(move || line.get().unwrap())
    };
    let consumers = [consumer(), consumer()]; // one of them leaves the first ring
    let next = Chain::default();
    if next.initialize(&line.memory, 1).is_ok() {
        next.push(&line.memory, me(), NO_LIMIT, &cell(3), || {}).unwrap();
    }
    assert_eq!(sorted(consumers.map(|consumer| consumer.join().unwrap()).to_vec()), [1, 2]);
}

#[test]
fn slow_reader_holds() {
    check(3, slow_reader);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn slow_reader_fails_without_readers_left() {
    twin(3, Part::ReadersLeft, slow_reader);
}

/// A consumer that meets its old ring as that of another chain takes nothing in it for its own.
fn reused_before_consumer() {
    let line = Arc::new(Line::with(&[1, 1], &[1, 2]));
    assert_eq!(line.get(), Ok(1));
    let [stale, leaver] = [line.clone(), line.clone()].map(|line| thread::spawn(move || line.get()));
    let _ = Chain::default().initialize(&line.memory, 1); // as soon as the first ring is given back
    let results = [stale.join().unwrap(), leaver.join().unwrap()];
    assert!(results.contains(&Ok(2)) && results.contains(&Err(PopError::Empty)), "the message once: {results:?}");
}

#[test]
fn reused_before_consumer_holds() {
    check(2, reused_before_consumer);
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // it runs away over positions that nobody has put
fn reused_before_consumer_fails_without_new_life() {
    twin(2, Part::NewLife, reused_before_consumer);
}

/// Nor does a producer put into it; and the ring that producers still go to is not given back.
fn reused_before_producer() {
    let line = Arc::new(Line::closed(&[1, 2, 2, 2]));
    let [producer, consumer] = [line.clone(), line.clone()];
    let producer = thread::spawn(move || producer.put(2));
    let consumer = thread::spawn(move || {
        let got = consumer.get();
        let _ = Chain::default().initialize(&consumer.memory, 1);
        got
    });
    line.put(1);
    producer.join().unwrap();
    let mut got = Vec::from_iter(consumer.join().unwrap());
    got.extend(line.drain());
    assert_eq!(sorted(got), [1, 2], "each message once");
}

#[test]
fn reused_before_producer_holds() {
    check(1, reused_before_producer); // and with two preemptions, in a minute
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // it goes round in a ring that is another's now
fn reused_before_producer_fails_without_producers_left() {
    twin(2, Part::ProducersLeft, reused_before_producer);
}

// ---------------------------------------------------------------------------------------------- event

/// What is waited for: a number of tokens.
#[derive(Default)]
struct Tokens {
    count: AtomicU64,
    bell: Bell,
    event: Event,
}

impl Tokens {
    fn give(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.event.notify_one(&self.bell);
    }

    fn try_take(&self) -> Option<()> {
        let mut seen = self.count.load(Ordering::Relaxed);
        while seen > 0 {
            match self.count.compare_exchange(seen, seen - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(()),
                Err(now) => seen = now,
            }
        }
        None
    }

    fn take(&self, patience: Patience<'_>) -> Result<(), WaitError> {
        self.event.wait_until(&self.bell, &patience, || self.try_take(), || self.count.load(Ordering::Relaxed) > 0)
    }
}

/// A waiter in a thread of its own.
fn waiter(tokens: &Arc<Tokens>) -> thread::JoinHandle<()> {
    let tokens = tokens.clone();
    thread::spawn(move || tokens.take(Patience::endless()).unwrap())
}

/// A waiter and a notifier: the wake is not lost, whoever comes first.
fn wake() {
    let tokens = Arc::new(Tokens::default());
    let waiter = waiter(&tokens);
    tokens.give();
    waiter.join().unwrap();
    assert_eq!(tokens.event.waiting(), 0);
}

#[test]
fn wake_holds() {
    check(3, wake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_fails_without_notify_fence() {
    twin(3, Part::NotifyFence, wake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_fails_without_wait_fence() {
    twin(3, Part::WaitFence, wake);
}

/// Two waiters and a notifier that runs ahead: its second wake is left to the first one who wakes.
fn wake_passed_on() {
    let tokens = Arc::new(Tokens::default());
    let waiters = [waiter(&tokens), waiter(&tokens)];
    tokens.give();
    tokens.give();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn wake_passed_on_holds() {
    check(2, wake_passed_on);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_passed_on_fails_without_pass_on() {
    twin(2, Part::PassOn, wake_passed_on);
}

/// Two waiters and two notifiers.
fn two_wakes() {
    let tokens = Arc::new(Tokens::default());
    let waiters = [waiter(&tokens), waiter(&tokens)];
    let other = tokens.clone();
    let notifier = thread::spawn(move || other.give());
    tokens.give();
    notifier.join().unwrap();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn two_wakes_hold() {
    check(1, two_wakes);
}

/// A thief takes what a waiter was woken for: the next wake still reaches the waiter.
fn wake_after_theft() {
    let tokens = Arc::new(Tokens::default());
    let waiter = waiter(&tokens);
    let other = tokens.clone();
    let thief = thread::spawn(move || other.try_take());
    tokens.give();
    tokens.give();
    waiter.join().unwrap();
    let stolen = thief.join().unwrap();
    assert_eq!(tokens.try_take().is_some(), stolen.is_none());
}

#[test]
fn wake_after_theft_holds() {
    check(3, wake_after_theft);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_after_theft_fails_without_seen() {
    twin(3, Part::Seen, wake_after_theft);
}

/// A waiter that gives up just when it is woken takes what it was woken for, or leaves it to the other.
fn wake_of_one_who_gives_up() {
    let tokens = Arc::new(Tokens::default());
    let other = tokens.clone();
    let impatient = thread::spawn(move || other.take(Patience::until_woken()));
    let patient = waiter(&tokens);
    tokens.give();
    tokens.give();
    patient.join().unwrap();
    let taken = impatient.join().unwrap();
    assert_eq!(tokens.try_take().is_some(), taken.is_err());
}

#[test]
fn wake_of_one_who_gives_up_holds() {
    check(2, wake_of_one_who_gives_up);
}

/// `notify_all` reaches everybody.
fn wake_all() {
    let tokens = Arc::new(Tokens::default());
    let waiters = [waiter(&tokens), waiter(&tokens)];
    tokens.count.fetch_add(2, Ordering::Release);
    tokens.event.notify_all(&tokens.bell);
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn wake_all_holds() {
    check(2, wake_all);
}

// ---------------------------------------------------------------------------------------------- memory

/// Two elements whose waiters sleep on the same word.
#[derive(Default)]
struct Elements {
    values: [AtomicU64; 2],
    changes: Changes,
}

impl Elements {
    fn change(&self, place: usize) {
        self.values[place].store(1, Ordering::Relaxed);
        self.changes.notify(1);
    }

    fn wait(&self, place: usize, patience: &Patience<'_>) -> Result<(), WaitError> {
        self.changes.wait_until(patience, || (self.values[place].load(Ordering::Relaxed) != 0).then_some(()))
    }
}

/// Whoever waits for a change hears of it.
fn change_is_heard() {
    let elements = Arc::new(Elements::default());
    let other = elements.clone();
    let waiter = thread::spawn(move || other.wait(0, &Patience::endless()));
    elements.change(0);
    waiter.join().unwrap().unwrap();
}

#[test]
fn change_is_heard_holds() {
    check(3, change_is_heard);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_is_heard_fails_without_change_before_sleepers() {
    twin(3, Part::ChangeBeforeSleepers, change_is_heard);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_is_heard_fails_without_sleepers_before_change() {
    twin(3, Part::SleepersBeforeChange, change_is_heard);
}

/// A wake for one that reaches somebody who waits for something else reaches the right one in the end.
fn change_of_another() {
    let elements = Arc::new(Elements::default());
    let waiters = [0, 1].map(|place| {
        let other = elements.clone();
        thread::spawn(move || other.wait(place, &Patience::endless()).unwrap())
    });
    let [first, second] = waiters;
    elements.change(0);
    first.join().unwrap();
    elements.change(1);
    second.join().unwrap();
}

#[test]
fn change_of_another_holds() {
    check(2, change_of_another);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_of_another_fails_without_passed_on() {
    twin(2, Part::PassedOn, change_of_another);
}

/// The same if the wrong one gives up just when it is woken.
fn change_of_another_who_gives_up() {
    let elements = Arc::new(Elements::default());
    let other = elements.clone();
    let impatient = thread::spawn(move || other.wait(1, &Patience::until_woken()));
    let other = elements.clone();
    let patient = thread::spawn(move || other.wait(0, &Patience::endless()));
    elements.change(0);
    patient.join().unwrap().unwrap();
    elements.change(1);
    let _ = impatient.join().unwrap();
}

#[test]
fn change_of_another_who_gives_up_holds() {
    check(2, change_of_another_who_gives_up);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_of_another_who_gives_up_fails_without_passed_on() {
    twin(2, Part::PassedOn, change_of_another_who_gives_up);
}
