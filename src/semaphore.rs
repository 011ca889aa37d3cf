//! A semaphore: a number that may be taken from while it is positive, and who has taken how much of it.
//!
//! ```text
//!   state   63          44 43           32 31          20 19              0      what is free, and one account:
//!          +--------------+---------------+--------------+-----------------+     what `peer` has taken
//!          |   changes    |     peer      |     held     |      free       |
//!          +--------------+---------------+--------------+-----------------+
//!
//!   ledger  63                          24 23          12 11              0      the accounts of all others,
//!          +------------------------------+--------------+-----------------+     one a word
//!          |           changes            |     peer     |      held       |
//!          +------------------------------+--------------+-----------------+
//! ```
//!
//! One compare-and-swap of `state` takes what is free *and* writes it to an account, so nothing is ever taken
//! anonymously, and what a killed peer had taken comes back ([`Semaphore::recover`]). The account in `state` is that of
//! the peer that came last; its word in the ledger, if it has one, is out of date and means nothing. When another peer
//! comes, it writes the account to the ledger and puts its own in the place:
//!
//! ```text
//!   seen = state
//!   read the ledger:  the word of seen.peer (else a spare one), my account
//!   state = seen ?                  → what was read belongs to `seen`
//!   word: its number of changes + 1, seen.peer, seen.held       a compare-and-swap
//!   state: changes + 1, me, my account ± 1, free ∓ 1            a compare-and-swap: the step that counts
//! ```
//!
//! Whoever is killed between the two has changed nothing: `state` still has the account. Whoever is late with the first
//! one fails: all who move the same account out change the same word, and nobody puts another one into `state` without
//! having changed it.
//!
//! Whether something can be taken or given back depends on what is free alone; accounts are for the dead. They are
//! exact while no peer holds more than 4,095, no more than 58 peers hold something at a time, and no more than
//! 1,048,575 are free. What goes beyond that is in no account, and lost with whoever had taken it.
//!
//! Any peer may give back what another one has taken, as any thread may with `threading.Semaphore`. It leaves the
//! giver's account if there is something in it, else another one's. So accounts fit both uses: where whoever takes gives
//! back, and where one counts things up that another one takes. That one's account says how much it has taken that was
//! not counted up again since; as much comes back when it dies, as with System V's SEM_UNDO.
#![forbid(unsafe_code)]

use crate::error::{TooManyReleases, WaitError};
use crate::event::{Bell, Event, Patience, Watchable};
use crate::fault::fault;
use crate::layout::PeerId;
use crate::sync::{AtomicU64, Ordering, essential};

/// How many peers may hold something while another one comes. Models have few.
const LEDGER: usize = if cfg!(loom) { 3 } else { 58 };

const PEER_MASK: u64 = PeerId::COUNT as u64 - 1;

/// Who holds how much; peer 0 is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    peer: u64,
    held: u64,
}

impl Account {
    /// The most that an account can tell.
    const MOST: u64 = (1 << 12) - 1;

    /// The account after so many were given back.
    fn minus(self, given: u64) -> Account {
        Account { held: self.held.saturating_sub(given), ..self }
    }
}

/// What `state` says.
#[derive(Clone, Copy, Debug)]
struct State {
    changes: u64,
    account: Account,
    free: u64,
}

impl State {
    const MOST_FREE: u64 = (1 << 20) - 1;
    /// What the word grows by when one is taken to the account that is there: the usual step, in one addition.
    const ONE_TAKEN: u64 = (1 << 44) + (1 << 20) - 1;
    /// The same when one of it is given back.
    const ONE_GIVEN: u64 = (1 << 44) - (1 << 20) + 1;

    fn unpack(word: u64) -> State {
        let account = Account { peer: word >> 32 & PEER_MASK, held: word >> 20 & Account::MOST };
        State { changes: word >> 44, account, free: word & Self::MOST_FREE }
    }

    /// The word of the state that comes after this one.
    fn next(self, account: Account, free: u64) -> u64 {
        self.changes.wrapping_add(1) << 44 | account.peer << 32 | account.held << 20 | free
    }
}

/// What a word of the ledger says.
fn account_of(word: u64) -> Account {
    Account { peer: word >> 12 & PEER_MASK, held: word & Account::MOST }
}

/// The word after `word` for an account.
fn entry(word: u64, account: Account) -> u64 {
    (word >> 24).wrapping_add(u64::from(essential!(EntryChanges: 1_u32))) << 24 | account.peer << 12 | account.held
}

/// What the ledger says while `state` is as it was seen.
#[derive(Debug, Default)]
struct Look<'a> {
    /// Where the account in `state` goes, and what is there now: its own word, else the first spare one.
    place: Option<(&'a AtomicU64, u64)>,
    /// Whether that is its own word.
    is_own: bool,
    /// How many words are spare: those of nobody, or of somebody who holds nothing.
    spares: usize,
    /// The account that was asked for, if it holds something.
    asked: Option<Account>,
    /// The first one of the others that holds something.
    other: Option<Account>,
}

impl Look<'_> {
    /// Whether a peer that the ledger does not know may put its account into `state`: the one that is there now takes a
    /// word, and there must be one for the new account when the next peer comes.
    fn has_room(&self) -> bool {
        self.spares > usize::from(!self.is_own)
    }
}

/// A semaphore. All zero bytes are a valid one with nothing to take and no bound.
#[repr(C)]
#[derive(Debug)]
pub struct Semaphore {
    state: AtomicU64,
    /// What is free beyond what `state` can tell.
    extra: AtomicU64,
    /// The most that its value may be, plus one; 0 if there is no bound.
    bound: AtomicU64,
    more: Event,
    /// The accounts that `state` does not have. Words come into use from the first one on.
    ledger: [AtomicU64; LEDGER],
}

impl Default for Semaphore {
    fn default() -> Self {
        Semaphore {
            state: AtomicU64::default(),
            extra: AtomicU64::default(),
            bound: AtomicU64::default(),
            more: Event::default(),
            ledger: core::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl Semaphore {
    /// The largest value of any semaphore.
    pub const MAX: u64 = i64::MAX as u64;

    /// Sets it up, before anybody else knows of it. `value` is at most [`Semaphore::MAX`].
    pub fn initialize(&self, value: u64, bounded: bool) {
        let free = value.min(State::MOST_FREE);
        self.state.store(free, Ordering::Relaxed); // Relaxed, all: the id that others get publishes it
        self.extra.store(value - free, Ordering::Relaxed);
        self.bound.store(if bounded { value + 1 } else { 0 }, Ordering::Relaxed);
        self.ledger.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Takes one, to `owner`'s account; false if there is none.
    #[inline]
    pub fn try_acquire(&self, owner: PeerId) -> bool {
        let me = u64::from(owner.get());
        loop {
            let seen = self.seen();
            let state = State::unpack(seen);
            if state.free == 0 {
                return self.try_acquire_extra();
            }
            let next = if state.account.peer == me && state.account.held < Account::MOST {
                seen.wrapping_add(State::ONE_TAKEN)
            } else {
                let Some(account) = self.after_taking(seen, me) else { continue };
                state.next(account, state.free - 1)
            };
            fault!(SemaphoreTake);
            // SYNC POINT: Release publishes to the Acquire in `seen` that the account was moved out.
            let release = essential!(AccountPublished: Ordering::Release);
            if self.state.compare_exchange(seen, next, release, Ordering::Relaxed).is_ok() {
                fault!(SemaphoreTaken);
                return true;
            }
        }
    }

    /// Takes one of those that no account tells of.
    #[cold]
    fn try_acquire_extra(&self) -> bool {
        let mut seen = self.extra.load(Ordering::Relaxed);
        while seen > 0 {
            // Acquire sees what came before the Release in `give`.
            match self.extra.compare_exchange(seen, seen - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes one, waiting for it.
    ///
    /// # Errors
    /// [`WaitError`]; nothing was taken then.
    pub fn acquire(&self, owner: PeerId, bell: &Bell, patience: &Patience<'_>) -> Result<(), WaitError> {
        let attempt = || self.try_acquire(owner).then_some(());
        if attempt().is_some() {
            return Ok(());
        }
        self.more.wait_until(bell, patience, attempt, || self.value() > 0)
    }

    /// Gives `count` back: of what `owner` has taken, else of what others have; new ones if nobody has any.
    ///
    /// # Errors
    /// [`TooManyReleases`] if there would be more than its bound; nothing was given back then.
    #[inline]
    pub fn release(&self, owner: PeerId, count: u64, bell: &Bell) -> Result<(), TooManyReleases> {
        let (me, seen) = (u64::from(owner.get()), self.seen());
        let state = State::unpack(seen);
        let usual = count == 1 && state.account.peer == me && state.account.held > 0 && state.free < State::MOST_FREE;
        if !(usual && self.may_give(state, 1) && self.publish(seen, seen.wrapping_add(State::ONE_GIVEN))) {
            self.release_in_steps(me, count)?;
        }
        fault!(SemaphoreGiven);
        self.more.notify_one(bell); // who wakes wakes the next one while there is more
        Ok(())
    }

    #[cold]
    fn release_in_steps(&self, me: u64, count: u64) -> Result<(), TooManyReleases> {
        // What is to become free, and what is to leave accounts. With a bound all becomes free in one step, for it is all
        // or nothing. Without, account by account, so that nobody who is killed in between leaves one too large.
        let (mut to_give, mut owed) = (count, count);
        let mut accounts = LEDGER + 1; // no more can there be, unless somebody wrote over the ledger
        while owed > 0 {
            let seen = self.seen();
            if to_give > 0 && !self.may_give(State::unpack(seen), to_give) {
                return Err(TooManyReleases);
            }
            let Some(payer) = self.payer(seen, me) else { continue };
            let paid = if accounts > 0 { payer.held.min(owed) } else { 0 };
            let given = if self.bound().is_some() || paid == 0 { to_give } else { paid.min(to_give) };
            if self.give(seen, payer.minus(paid), given) {
                to_give -= given;
                owed = if paid == 0 { 0 } else { owed - paid };
                accounts = accounts.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Whether so much more may become free.
    fn may_give(&self, state: State, count: u64) -> bool {
        self.free(state).checked_add(count).is_some_and(|free| free <= self.most())
    }

    /// The step from the state `seen` to one with this account and so much more that is free; false if there is a new
    /// state already.
    fn give(&self, seen: u64, account: Account, count: u64) -> bool {
        let state = State::unpack(seen);
        let free = state.free.saturating_add(count);
        let given = self.publish(seen, state.next(account, free.min(State::MOST_FREE)));
        if given && free > State::MOST_FREE {
            self.extra.fetch_add(free - State::MOST_FREE, Ordering::Release);
        }
        given
    }

    fn publish(&self, seen: u64, next: u64) -> bool {
        fault!(SemaphoreGive);
        // SYNC POINT: Release publishes what came before, and that the account was moved out, to the Acquire in `seen`.
        let release = essential!(SemaphoreReleased: Ordering::Release);
        self.state.compare_exchange(seen, next, release, Ordering::Relaxed).is_ok()
    }

    /// Makes what a dead peer had taken free again. Whoever is killed meanwhile leaves it to be called again.
    pub fn recover(&self, dead: PeerId) {
        loop {
            let seen = self.seen();
            let state = State::unpack(seen);
            let Some(account) = self.account(seen, u64::from(dead.get())) else { continue };
            if account.held == 0 {
                break;
            }
            // Somebody who gave back what the dead one had may have been killed before it left the account.
            let count = account.held.min(self.most().saturating_sub(self.free(state)));
            let emptied = essential!(AccountEmptied: u32::MAX); // whatever it held
            if self.give(seen, account.minus(emptied.into()), count) {
                break;
            }
        }
        fault!(SemaphoreRecovered);
        // All of them, and always: the wake of one who was killed may be lost.
        essential!(RecoveryWakes: self.more.recover());
    }

    /// How many could be taken now.
    pub fn value(&self) -> u64 {
        self.free(State::unpack(self.state.load(Ordering::Relaxed)))
    }

    fn free(&self, state: State) -> u64 {
        state.free.saturating_add(self.extra.load(Ordering::Relaxed))
    }

    /// The most that its value may be, if there is a bound.
    pub fn bound(&self) -> Option<u64> {
        self.bound.load(Ordering::Relaxed).checked_sub(1)
    }

    /// The most that its value may be.
    fn most(&self) -> u64 {
        self.bound().unwrap_or(Self::MAX)
    }

    /// The state as it is now.
    fn seen(&self) -> u64 {
        // SYNC POINT: Acquire sees what came before the Release in `give`, and a ledger that is at least as new.
        self.state.load(essential!(SemaphoreAcquired: Ordering::Acquire))
    }

    /// What the ledger says while the state is `seen`, about `peer` too. None if there is a new state.
    fn look_up(&self, seen: u64, peer: u64) -> Option<Look<'_>> {
        let current = State::unpack(seen).account.peer;
        let mut look = Look { is_own: current == 0, ..Look::default() };
        for (index, place) in self.ledger.iter().enumerate() {
            // SYNC POINT: Acquire, with the Release in `move_out`: whoever sees what was written because of a later
            // state sees below that there is one.
            let word = place.load(essential!(LedgerSeen: Ordering::Acquire));
            let account = account_of(word);
            if account.peer == current && current != 0 {
                if !look.is_own {
                    (look.place, look.is_own) = (Some((place, word)), true);
                }
            } else if account.peer == 0 || account.held == 0 {
                look.spares += 1;
                look.place = look.place.or(Some((place, word)));
                if word == 0 {
                    look.spares += LEDGER - 1 - index; // it was never used, nor was any after it
                    break;
                }
            } else if account.peer == peer {
                look.asked = look.asked.or(Some(account));
            } else {
                look.other = look.other.or(Some(account));
            }
        }
        let moved = essential!(StateMoved: self.state.load(Ordering::Relaxed) != seen);
        (!moved).then_some(look)
    }

    /// Writes the account in the state `seen` to its place; false if that has changed. Afterwards the state may have
    /// another account, if it is still `seen`.
    fn move_out(&self, seen: u64, look: &Look<'_>) -> bool {
        let account = State::unpack(seen).account;
        let Some((place, word)) = look.place.filter(|_| account.peer != 0) else {
            return true; // nobody's; a place there is, unless somebody wrote over the ledger
        };
        fault!(SemaphoreMoveOut);
        // Also if the word says so already: those who are late with an earlier state's account must fail.
        let release = essential!(AccountMovedOut: Ordering::Release);
        place.compare_exchange(word, entry(word, account), release, Ordering::Relaxed).is_ok()
    }

    /// The account for the state that follows on `seen` when `me` has taken one. None if the attempt is to be made again.
    #[cold]
    fn after_taking(&self, seen: u64, me: u64) -> Option<Account> {
        let current = State::unpack(seen).account;
        if current.peer == me {
            return Some(current); // it is full: no account tells of this one
        }
        let look = self.look_up(seen, me)?;
        let mine = look.asked.or_else(|| look.has_room().then_some(Account { peer: me, held: 0 }));
        let Some(mine) = mine else {
            return Some(current); // there is no room: no account tells of this one either
        };
        let held = (mine.held + 1).min(Account::MOST);
        self.move_out(seen, &look).then_some(Account { held, ..mine })
    }

    /// The account in the state `seen`, or moved there, that pays for what `me` gives back. None if the attempt is to be
    /// made again.
    #[cold]
    fn payer(&self, seen: u64, me: u64) -> Option<Account> {
        let current = State::unpack(seen).account;
        if current.peer == me && current.held > 0 {
            return Some(current);
        }
        let look = self.look_up(seen, me)?;
        match (look.asked, look.other) {
            (Some(mine), _) => self.move_out(seen, &look).then_some(mine),
            (None, Some(other)) if current.held == 0 => self.move_out(seen, &look).then_some(other),
            _ => Some(current),
        }
    }

    /// The account of `peer` in the state `seen`, or moved there. None if the attempt is to be made again.
    fn account(&self, seen: u64, peer: u64) -> Option<Account> {
        let current = State::unpack(seen).account;
        if current.peer == peer {
            return Some(current);
        }
        let look = self.look_up(seen, peer)?;
        match look.asked {
            Some(account) => self.move_out(seen, &look).then_some(account),
            None => Some(Account { peer, held: 0 }),
        }
    }
}

/// Ready when there is something to take.
impl Watchable for Semaphore {
    fn is_ready(&self) -> bool {
        self.value() > 0
    }

    fn look(&self) -> bool {
        self.more.watch();
        self.is_ready()
    }
}
