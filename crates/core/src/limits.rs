//! Every bound and every default duration, each with its reason.
//!
//! Nothing else in the workspace states a number that limits what others may send, how long
//! something is kept, or how often something is tried.

use std::time::Duration;

/// So many at once, and one more after each pause.
///
/// Within any time `t` there are at most `burst + t / every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many may come at once.
    pub burst: u32,
    /// After how long one more may come.
    pub every: Duration,
}

const fn allowance(burst: u32, every: Duration) -> Allowance {
    Allowance { burst, every }
}

// --- Addresses and ports ---

/// Where a broker listens when nothing else is said.
pub const BROKER_PORT: u16 = 7766;
/// A second port of the broker: an observation there beside one at [`BROKER_PORT`] from the same
/// local port tells whether a NAT's mapping depends on the destination (RFC 5780 section 4.3).
pub const PROBE_PORT: u16 = 7767;
/// First port a peer chooses from: above the ports that SIP and RTSP helpers in routers rewrite.
pub const PORT_FIRST: u16 = 20_001;
/// Last port a peer chooses from: below Linux's ephemeral range (32768-60999), so that no other
/// program's outgoing connection takes the port between the choice and the bind.
pub const PORT_LAST: u16 = 32_767;
/// How many random ports are tried before giving up: with half of the range taken, one in a
/// million peers would fail.
pub const PORT_TRIES: usize = 20;
/// Host candidates below this port are never dialled: a peer must not be able to make another
/// knock at system services of its LAN.
pub const LOWEST_DIALLED_PORT: u16 = 1024;
/// Host candidates taken from one peer: a machine with more interfaces names its first ones.
pub const MAX_HOST_CANDIDATES: usize = 8;
/// Addresses that the broker may name for one peer: one a family, and as many predictions.
pub const MAX_OBSERVED: usize = 4;

// --- Wire ---

/// Largest message on a link between peer and broker, in bytes. The largest honest one is a join
/// with an opener for each of the other members of a full lobby.
pub const MAX_MESSAGE: usize = 2048;
/// Largest frame on a link: a message and its authentication tag.
pub const MAX_FRAME: usize = MAX_MESSAGE + 16;
/// Largest handshake message between two peers: a key, a sealed payload with
/// [`MAX_HOST_CANDIDATES`] addresses, and tags.
pub const MAX_HANDSHAKE: usize = 384;
/// Messages that one side of an introduction may relay through the broker: the second handshake message, its host
/// candidates, room for one correction, and two words in each round. More would be a data channel.
pub const MAX_RELAYED: u8 = 3 + 2 * ROUNDS;
/// Bytes of these messages together: two of the longest.
pub const MAX_RELAYED_BYTES: usize = 2 * MAX_HANDSHAKE;
/// Largest plaintext of one record between peers, in bytes: larger ones gain nothing, measured on
/// loopback, and every record must be buffered whole before it can be verified.
pub const MAX_RECORD: usize = 64 * 1024;
/// Records sealed with one key before both sides move to the next one: far below the 2^32
/// messages where AES-256-GCM with counters would want it (NIST SP 800-38D section 8.3).
pub const RECORDS_PER_KEY: u64 = 1 << 16;
/// Longest name a peer may give itself, in bytes of UTF-8.
pub const MAX_NAME: usize = 64;
/// Longest line of chat, in bytes of UTF-8.
pub const MAX_LINE: usize = 16 * 1024;

// --- Flow control between peers ---

/// Bytes that may be under way before the receiver has granted more: one round trip of 1 Gbit/s
/// at 8 ms.
pub const WINDOW_FIRST: u32 = 1024 * 1024;
/// The window grows up to this: 16 MiB fill 1 Gbit/s at 130 ms. It is what one connection may
/// make a receiver buffer.
pub const WINDOW_MOST: u32 = 16 * 1024 * 1024;
/// A sender stops taking data from its application when this much sealed data waits for the
/// socket: two full records keep the socket busy while a third is sealed.
pub const MAX_UNSENT: usize = 2 * (MAX_RECORD + 64);

/// What a receiver reads at a time, in bytes: two records, so that the second can be there when the first was opened.
pub const RECEIVE_BUFFER: usize = 2 * (MAX_RECORD + 64);
/// Records that are taken in for an application that does not read, before what is to be sent has its turn: a megabyte
/// at most, so that a fast peer does not hold up the answers to its own pings.
pub const RECORDS_AT_ONCE: usize = 16;
/// A reader that was told of data and has not come for it within this has gone away; until then what came in waits in
/// the socket. Pings may be answered so much later, far below [`DEAD_AFTER`].
pub const READER_LEFT_AFTER: Duration = Duration::from_secs(1);

// --- Connection life ---

/// A side that has sent nothing for this long sends a ping: three of them fit into
/// [`DEAD_AFTER`].
pub const PING_EVERY: Duration = Duration::from_secs(8);
/// A connection without any record for this long is dead: promised to be noticed within 30 s,
/// and one lost ping with TCP's retransmissions must not be enough. So is one that has only the rest to send, and whose socket
/// takes nothing of it for this long, whatever the peer says meanwhile.
pub const DEAD_AFTER: Duration = Duration::from_secs(25);
/// How long a side that has said and heard the end, or dropped the connection, waits for the peer's end of the socket; and
/// how long a dropped one waits for the socket to take some of the rest.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(5);

// --- Link to the broker ---

/// Resolving, connecting and shaking hands with one address of a broker.
pub const LINK_WITHIN: Duration = Duration::from_secs(5);
/// The next address of a broker is tried after this long without an answer (RFC 8305 section 5
/// recommends 250 ms).
pub const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// A link that was silent for this long carries a ping: NATs were seen to drop idle TCP mappings
/// after 30 s (facts of carrier NATs), and RFC 5382 REQ-5 only promises 4 minutes.
pub const LINK_PING_EVERY: Duration = Duration::from_secs(20);
/// A link without any message for this long is dead and made again.
pub const LINK_DEAD_AFTER: Duration = Duration::from_secs(50);
/// Local ports that listen at once: the present one, and the last, which attempts may still be using.
pub const DOORS: usize = 2;
/// First pause before a lost link is made again; doubled each time, with jitter of a half.
pub const LINK_RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest pause between tries in the first [`LINK_RETRY_SOON_FOR`]: with its jitter, the handshake
/// and the peers' attempts everything stands again within 5 s of the network's return, also where
/// nothing on this machine tells of it.
pub const LINK_RETRY_SOON: Duration = Duration::from_secs(2);
/// A link that stood for so long was good: the pauses between tries begin anew.
pub const LINK_LASTS_FROM: Duration = LINK_PING_EVERY;
/// For so long a network is expected back at any moment: a home router needs one to three minutes
/// to restart.
pub const LINK_RETRY_SOON_FOR: Duration = Duration::from_secs(180);
/// Longest pause between tries to make a lost link again after that.
pub const LINK_RETRY_MOST: Duration = Duration::from_secs(20);
/// Silence of an observation is final after this.
pub const OBSERVE_WITHIN: Duration = Duration::from_secs(2);
/// A broker's knock is given up after this: the kernel sends the SYN again after a second.
pub const KNOCK_WITHIN: Duration = Duration::from_millis(1500);
/// A broker knocks once more after this if nothing came back: so early that the answer is there before silence counts
/// ([`KNOCK_SILENT_AFTER`]), whatever the round trip. Of resets and ICMP errors on a path that loses a tenth, one in five is taken for
/// silence without.
pub const KNOCK_AGAIN_AFTER: Duration = Duration::from_millis(15);
/// Who is knocked at waits so long for what came of it, from when on silence may be the answer: the broker's own time,
/// and a second more for a busy one, which begins late and is heard late. A broker that does not knock at all costs a
/// survey this time.
pub const KNOCK_TOLD_WITHIN: Duration = Duration::from_millis(2500);

/// Added to one and a half round trips after an observation: silence of a knock there is taken for an answer for the
/// time being, because a reset or an ICMP error is there by then. So much a loaded broker may take.
pub const KNOCK_SILENT_AFTER: Duration = Duration::from_millis(30);
/// Fresh ports on which a peer looks how its NAT chooses: with the others of a survey and the link, 18 mappings of a symmetric NAT. Of
/// so many from a block of ports the smallest aligned block that has them all is the whole of it but once in 2^17.
pub const FRESH_PORTS: usize = 12;
/// Local ports that must have been observed before their ports outside are called steps, a block or random.
pub const FRESH_PORTS_LEAST: usize = 8;
/// Places of a broker that one survey contacts: two ports each at two addresses.
pub const SURVEY_PLACES: usize = 4;
/// Of these, places to which a second local port goes as well: of ten packets one may be lost, and a SYN takes a second to be sent
/// again.
pub const PLACES_AGAIN: usize = 2;
/// Places of a broker at which a fresh port is observed for a further round. Both sides wait for it, and a lost SYN is sent again
/// after a second. (Simulated at a loss of 2 %, two instead of one: `narrow` keeps 2 s in 93.4 %, not 92.4, `stepping-both` 3 s in 99.2, not 98.0.)
pub const OBSERVED_AT: usize = 2;
/// Largest step from one mapping to the next that is called one: 1 and 2 are the most common
/// (draft-takeda-symmetric-nat-traversal-00), and others than these come with parity or several cores.
pub const STEP_MOST: u16 = 32;
/// Sizes of port blocks that are looked for: 512, 1,024 and 2,048 a subscriber are typical of carriers, 64 the least seen.
pub const BLOCKS: [u16; 6] = [64, 128, 256, 512, 1024, 2048];
/// Ports from here on are given to users, and blocks are counted from here or from 0 (RFC 6335 section 6).
pub const USER_PORTS: u16 = 1024;
/// Largest range of ports that is called a block: half of all. Random ports of all look so rarely that it was never seen
/// (16 of them once in 10^7).
pub const BLOCK_MOST: u16 = 32_768;
/// A guess at a range of ports that would have given the ports seen less often than this is not made; and where none is
/// made, the ends that are taken instead are wrong that often.
pub const RANGE_DOUBT: f64 = 0.01;

// --- STUN ---

/// Longest STUN message that is read, in bytes: one that fits into the smallest path of IPv6 (RFC 8489 section 6.1). Those of
/// the Binding method have under two hundred.
pub const STUN_MESSAGE: usize = 1280;
/// Characters of a STUN server's reason that are shown: RFC 8489 section 14.8 allows fewer than 128.
pub const STUN_REASON: usize = 127;
/// Messages that the broker reads on one STUN connection: a client asks once or twice, and once more for each of the kernel's
/// retransmissions that it imitates.
pub const STUN_REQUESTS: usize = 16;
/// STUN servers that are asked at once: two tell how a NAT maps, and each costs it a mapping.
pub const STUN_SERVERS: usize = 8;

// --- Port mapping ---

/// For so long a router is asked to forward a port: nobody is there to take it back where the process is killed. It is
/// renewed at half of it.
pub const PORTMAP_LEASE: Duration = Duration::from_secs(600);
/// Most that a router may say it grants; what is longer is renewed as if it were this.
pub const PORTMAP_LEASE_MOST: Duration = Duration::from_secs(24 * 3600);
/// A mapping is renewed no more often than this, whatever its router grants.
pub const PORTMAP_RENEWED_LEAST: Duration = Duration::from_secs(1);
/// A renewal that failed is tried again after half of what is left of the lease, and no sooner than this (RFC 6887 section
/// 11.2.1).
pub const PORTMAP_RENEWED_AGAIN: Duration = Duration::from_secs(4);
/// First pause before a mapping that stood and is over is asked for anew; doubled each time. As long as between renewals.
pub const PORTMAP_AGAIN_FIRST: Duration = PORTMAP_RENEWED_AGAIN;
/// Longest such pause: a home router restarts in one to three minutes, and asking in vain costs it a few packets.
pub const PORTMAP_AGAIN_MOST: Duration = Duration::from_secs(300);
/// A question by PCP or NAT-PMP is repeated after this without an answer, once: the router is one hop away.
pub const PORTMAP_ASK_AGAIN: Duration = Duration::from_millis(250);
/// Silence of UPnP devices is final after this. They may wait so long on purpose (UPnP Device Architecture 2.0 section 1.3.2:
/// as many seconds as the question says, at least one).
pub const PORTMAP_SEARCH_WITHIN: Duration = Duration::from_secs(1);
/// What a UPnP router is told is done within this: it writes rules, some by starting programs.
pub const PORTMAP_DONE_WITHIN: Duration = Duration::from_secs(3);
/// How long the end of a program waits for its router to forget a port.
pub const PORTMAP_REMOVED_WITHIN: Duration = Duration::from_secs(1);
/// Characters of a router's reason that are shown.
pub const PORTMAP_REASON: usize = 160;

// --- Changes of the own network ---

/// The own addresses are looked at this often: promised is that everything stands again 5 s after
/// a change, and a look takes 0.1 ms of a processor (measured).
pub const NETWORK_LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look that comes this much later than it should means that the process, or the machine, slept:
/// more than a busy machine delays a timer.
pub const SLEPT_LEAST: Duration = Duration::from_secs(3);
/// What is in doubt is asked for a sign of life, and has this long to give one: two round trips of
/// a satellite link, or three retransmissions of a lost segment (200, 400 and 800 ms).
pub const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// First pause before a member of the lobby that was lost and has not left is met again; doubled
/// each time. A member that was killed has left before.
pub const MEET_AGAIN_FIRST: Duration = Duration::from_secs(3);
/// Longest pause between tries to meet a lost member again: it may have moved to a network from
/// which there is no path, and each try costs both sides SYNs.
pub const MEET_AGAIN_MOST: Duration = Duration::from_secs(600);

/// Networks whose profile is remembered: a person who travels meets a new one a day, and those of a month are of use.
pub const NETWORKS_REMEMBERED: usize = 64;
/// For how long: after it a router was likely replaced, or set up anew.
pub const NETWORK_REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

// --- Meetings ---

/// How long a code can be used (users read it to each other over the telephone).
pub const CODE_LIFE: Duration = Duration::from_secs(600);
/// Wrong guesses after which a code is burnt: 3 of 2^22.
pub const WRONG_GUESSES: u8 = 3;
/// At most one code number in this many is live, so that guessing a number rarely meets anybody.
pub const NUMBERS_PER_CODE: u64 = 100;
/// Smallest code number: always at least three digits.
pub const NUMBER_FIRST: u32 = 100;
/// Largest code number that is read or given.
pub const NUMBER_LAST: u32 = 9_999_999;
/// Longest `host:port` of a broker in a code, in bytes: a DNS name has at most 253 (RFC 1035 section
/// 2.3.4 without the root), and a port five digits.
pub const MAX_BROKER_TEXT: usize = 259;
/// Members of an open lobby unless `--lobby` says otherwise; each has a connection to every other.
pub const LOBBY_MEMBERS: usize = 16;
/// Most members a lobby can be told to have: a join carries a handshake message for each, and must
/// fit into [`MAX_MESSAGE`].
pub const LOBBY_MEMBERS_MOST: usize = 32;

// --- Broker ---

/// Links at a time, of all peers: two a peer in the usual case.
pub const BROKER_LINKS: usize = 8192;
/// Links at a time from one IPv4 address or IPv6 /64: a school or an office behind one address.
pub const BROKER_LINKS_PER_ADDRESS: usize = 128;
/// An IPv6 /48 gets this many times what one address gets. A /64 is one home's network, but who is
/// given a /48 has 65,536 of them (RFC 6177), and could fill every table with one entry each. Four,
/// because a /48 is also an organisation with several networks. A /56 is not counted by itself: it
/// is one home's too, and what it may take at most is what its /48 may.
pub const SITE_FACTOR: u32 = 4;
/// Where a table is full, an address that has fewer entries than this takes the place of one of
/// the address that has the most: one link a family, as a peer has. So a flood shuts newcomers
/// out only from as many addresses as half the table has entries.
pub const FAIR_SHARE: usize = 2;
/// Connections of any kind that an address may begin: a classroom of 30 behind a symmetric NAT that
/// starts at once begins a link and up to nineteen observations each; behind another one, a link and up to seven.
/// After that four a second, one call of a command in a script: each handshake costs the broker a
/// quarter of a millisecond of computing.
pub const CONNECTS_PER_ADDRESS: Allowance = allowance(640, Duration::from_millis(250));
/// Messages on one link: a newcomer to the largest lobby answers 31 introductions, and says a few
/// things of itself. After that two a second: a peer that waits says one in twenty seconds.
pub const MESSAGES_PER_LINK: Allowance = allowance(64, Duration::from_millis(500));
/// Joins of the lobby from one address: a classroom of 30 that joins at once, and again after the
/// broker was restarted.
pub const JOINS_PER_ADDRESS: Allowance = allowance(64, Duration::from_secs(2));
/// A lobby gives all but one in this many of its places to one address, at least one place to each
/// other: a classroom of 30 fits into the largest lobby, and alone shuts nobody out of it.
pub const LOBBY_LEFT_FREE: usize = 16;
/// Codes that one session may have open at once.
pub const CODES_PER_SESSION: usize = 8;
/// Codes of one address: each of a classroom of 30, twice.
pub const CODES_PER_ADDRESS: usize = 64;
/// Codes open at a time, of all sessions.
pub const BROKER_CODES: usize = 4096;
/// Codes that an address may open: a classroom of 30 at once, twice.
pub const OPENS_PER_ADDRESS: Allowance = allowance(64, Duration::from_secs(2));
/// Numbers that an address may ask for: a classroom of 30 at once, each mistyping once. Asking
/// again for the same number, as who waits for its code does, is no guess and not counted.
pub const CLAIMS_PER_ADDRESS: Allowance = allowance(60, Duration::from_secs(1));
/// Proofs of codes from one address: a classroom of 30 at once, with one wrong guess each. After
/// that twelve a minute: each carries up to [`MAX_HANDSHAKE`] bytes to somebody.
pub const PROOFS_PER_ADDRESS: Allowance = allowance(60, Duration::from_secs(5));
/// Claims that wait for the owner's next share at once, a code; and claims of one session.
pub const CLAIMS_PER_CODE: usize = 4;
/// Numbers asked for in vain are counted this long: as long as a code lives that they may have
/// aimed at. New numbers are drawn from [`NUMBERS_PER_CODE`] times as many.
pub const MISSES_COUNTED: Duration = CODE_LIFE;
/// Changes of its profile that a session may tell: it learns a few things after the registration,
/// and more would be a way to talk through the broker.
pub const PROFILES_PER_SESSION: u8 = 16;
/// Observations of one session: [`FRESH_PORTS`], [`SURVEY_PLACES`], [`PLACES_AGAIN`] and one with a knock, all again after the
/// link was made again; and [`OBSERVED_AT`] for each further round with each of 15 others of a lobby. The token goes over the
/// network in the clear, so others can use it up.
pub const OBSERVATIONS_PER_SESSION: Allowance = allowance(160, Duration::from_secs(1));
/// Observations of a session that are kept until the message comes that says for which round they are: the link may have lost
/// it, and meanwhile a whole survey and rounds of other introductions be seen.
pub const OBSERVATIONS_KEPT: usize = 32;
/// Observations that come before the link whose token they carry, of all links together: each link has [`FRESH_PORTS`] and a
/// few more, and the message that makes it one is rarely lost.
pub const EARLY_OBSERVATIONS: usize = 1024;
/// How long such an observation waits: longer than the kernel takes to send a lost message twice again.
pub const EARLY_OBSERVATION_LIFE: Duration = Duration::from_secs(3);
/// Observations with knocks of one session: one a survey, and some more after the link was made again.
pub const KNOCKS_PER_SESSION: Allowance = allowance(4, Duration::from_secs(15));
/// Connects that a broker makes toward one address, which it observed itself: four for each of a classroom of 30. After
/// that one a second: whoever sees tokens must not make it into a scanner of the own address.
pub const KNOCKS_PER_ADDRESS: Allowance = allowance(128, Duration::from_secs(1));
/// Knocks under way at a time, of all sessions: each costs a descriptor for up to [`KNOCK_WITHIN`].
pub const BROKER_KNOCKS: usize = 128;
/// Bytes that one session may have passed on to others: shares, handshake messages, openers and
/// relayed signals, each counted with [`SIGNAL_OVERHEAD`]. Who joins the largest lobby needs 6 KiB
/// (31 openers of 34 bytes and as many sealed lists of hosts). After that 4 KiB a minute.
pub const SIGNALS_PER_SESSION: Allowance = allowance(16 * 1024, Duration::from_micros(14_648));
/// The same of one address, whatever its sessions: a classroom of 30 in one lobby, each with each,
/// passes on 140 KiB. After that 16 KiB a minute: that is no way to move data.
pub const SIGNALS_PER_ADDRESS: Allowance = allowance(192 * 1024, Duration::from_micros(3_662));
/// Counted for each message that is passed on beside its bytes: the sender's key, which it chose,
/// and what else it can choose.
pub const SIGNAL_OVERHEAD: usize = 36;
/// Proofs of one code that an endpoint makes within [`CODE_LIFE`], however often it claims it: a fresh share
/// comes when another's guess used up the last one. Each proof lets a hostile broker test one pair of words,
/// so there are no more than a waiter allows.
pub const PROOFS_PER_CODE: u8 = 3;
/// A claim that is not proven within this is forgotten: the arriver proves at once, without a
/// person in between.
pub const CLAIM_LIFE: Duration = Duration::from_secs(30);
/// Introductions toward one public address, 128 within any minute: more would make peers into a
/// SYN flood against it. Two sides behind one address are not counted: they meet nobody else.
pub const INTRODUCTIONS_PER_ADDRESS: Allowance = allowance(96, Duration::from_millis(1875));
/// Those of them that come from the lobby: two halves of a full lobby, each behind one address,
/// meet in 64. Fewer than all, because any stranger can join an open lobby, and whoever has the
/// words of a code must find introductions left.
pub const LOBBY_INTRODUCTIONS_PER_ADDRESS: Allowance = allowance(64, Duration::from_millis(3750));
/// In this window a member of a lobby counts [`LOBBY_INTRODUCTIONS`].
pub const INTRODUCTION_WINDOW: Duration = Duration::from_secs(60);
/// Introductions that can relay at a time, of all sessions; beyond it the oldest can no longer. A
/// pair needs a second or two.
pub const BROKER_INTRODUCTIONS: usize = 8192;
/// And of one session: all other members of the largest lobby, twice.
pub const INTRODUCTIONS_PER_SESSION: usize = 2 * LOBBY_MEMBERS_MOST;
/// How long an introduction can relay sealed messages.
pub const INTRODUCTION_LIFE: Duration = Duration::from_secs(30);
/// Tracked addresses in a table of rates.
pub const RATE_ENTRIES: usize = 16_384;
/// Messages that may wait for a slow reader before its link is closed.
pub const LINK_QUEUE: usize = 256;
/// And their bytes: who joins the largest lobby is told 31 introductions and their answers, 25 KiB
/// if all are as long as they may be.
pub const LINK_QUEUE_BYTES: usize = 32 * 1024;
/// From accepting a connection to its registration.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Longest delay that Go gets to align two sides: beyond it the measured round trips are wrong.
pub const GO_DELAY_MOST: Duration = Duration::from_millis(400);
/// Round trip assumed for a link that was not measured.
pub const UNKNOWN_ROUND_TRIP: Duration = Duration::from_millis(100);

// --- The broker's sockets ---

/// Connections that the kernel accepts ahead of the broker. Who finds its queue full tries again only
/// after a second (in a drill one of twenty thousand did, at 1024). Linux takes at most
/// net.core.somaxconn, which is 4096 unless it was changed.
pub const BROKER_BACKLOG: i32 = 4096;
/// Connections that are accepted before the broker looks at its links again: about a millisecond.
pub const BROKER_ACCEPTS_AT_ONCE: usize = 64;
/// Ports tried where any free one will do and both families must have it: the second is taken as
/// rarely as any port is.
pub const BROKER_PORT_CHOICES: u32 = 20;
/// Longest message of a link's handshake, in bytes: the longest is under 200, and what comes
/// before the handshake is done costs memory for strangers.
pub const LINK_HANDSHAKE_MESSAGE: usize = 1024;
/// Connections that have not shown who they are, in all: each costs a descriptor and a few
/// kilobytes for up to [`HANDSHAKE_WITHIN`]. Beyond it one goes of the address that began the
/// most. Not more, because who is last of them waits for the computing of all (a quarter of a
/// millisecond each).
pub const BROKER_HANDSHAKES: usize = 512;
/// And from one IPv4 address or IPv6 /64: a classroom that starts at once behind one address.
/// Beyond it the oldest goes.
pub const BROKER_HANDSHAKES_PER_ADDRESS: usize = 64;
/// The kernel's buffers of a link, each way, in bytes (Linux takes twice as much with its own
/// bookkeeping): a link carries a few small messages, and who does not read must not cost more.
pub const BROKER_SOCKET_BUFFER: usize = 32 * 1024;
/// Observations whose connection is held open, in all. The answer goes out in any case; beyond
/// this only the holding is refused.
pub const BROKER_OBSERVERS: usize = 1024;
/// And from one IPv4 address or IPv6 /64: four peers that look at one symmetric NAT at once. Who finds no place is
/// observed all the same.
pub const BROKER_OBSERVERS_PER_ADDRESS: usize = 80;
/// How often those who began connections long ago are forgotten.
pub const BROKER_GATES_SWEPT: Duration = Duration::from_secs(10);
/// How long an observation's connection is held open: longer than an attempt to connect lasts, and
/// as long as NATs were seen to keep an idle mapping.
pub const BROKER_OBSERVATION_HELD: Duration = Duration::from_secs(30);
/// Descriptors that connections never use: listeners, resolving, the state on disk, the log, and
/// what the program around the broker opens.
pub const BROKER_DESCRIPTORS_RESERVED: usize = 64;
/// Connections that are taken even where the system allows next to no descriptors.
pub const BROKER_CONNECTIONS_LEAST: usize = 16;
/// Pause of accepting after the system refused one: descriptors come back when links close, not
/// by asking again.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Reports from connections that wait for the owner of the rendezvous; a connection that finds no
/// room stops reading, and TCP passes that on to the peer.
pub const BROKER_REPORTS: usize = 1024;
/// What is read from a link at once, in bytes: most messages are far smaller, and each link has
/// such a buffer.
pub const BROKER_READ_BUFFER: usize = 1024;
/// Messages that one write may carry: an introduction comes with its Go, a join with many of both.
pub const BROKER_WRITE_BATCH: usize = 32;
/// A link whose other side takes not a byte for this long is closed.
pub const BROKER_WRITE_WITHIN: Duration = Duration::from_secs(10);
/// From the end of a link to its close: for what was queued to be sent and for the other side to
/// close as well.
pub const BROKER_CLOSED_WITHIN: Duration = Duration::from_secs(2);
/// Resolving one of the broker's own public names: it is not to hold up the start where there is
/// no name server.
pub const BROKER_RESOLVED_WITHIN: Duration = Duration::from_secs(3);
/// Advertised names: people read the first, programs race them all.
pub const BROKER_ADVERTISED_MOST: usize = 8;
/// Bytes of all advertised names: half of [`MAX_MESSAGE`], because all of
/// them go into one message.
pub const BROKER_ADVERTISED_BYTES: usize = 1024;

// --- Punching ---

/// Broker plus punching, from the introduction; also the default of `--timeout`.
pub const ATTEMPT_WITHIN: Duration = Duration::from_secs(15);
/// So long a failure is told later, because it is being written to the disk: a program may end with it.
pub const KEPT_WITHIN: Duration = Duration::from_secs(1);
/// The longest that [`ATTEMPT_WITHIN`] may be set to: what led to nothing in an hour will not, and clocks can't count without end.
pub const ATTEMPT_MOST: Duration = Duration::from_secs(3600);
/// After this long an attempt between two symmetric NATs has shown all it can: the kernel
/// has sent each SYN six times (0, 1, 2, 3, 4, 5 s).
pub const SYMMETRIC_WITHIN: Duration = Duration::from_secs(6);
/// Connection attempts (first SYNs) of one lane. With both NATs resetting at 1 ms, at most 30
/// were needed (measured); a lane that used them all is dead.
pub const SYNS_PER_LANE: u32 = 100;
/// Connection attempts where the broker saw a side whose ports differ for each destination, or beside a volley: who is there may let
/// everybody in, and then does so at once.
pub const SYNS_BESIDE_VOLLEY: u32 = 4;
/// Connection attempts over IPv6 while the broker has not seen this side there: the peer does not know where to fire, so they reach
/// only who lets everybody in. With more of them a lane had none left when a lost segment delayed the link by a second (3 of 18,000
/// simulated runs at 2 % loss).
pub const SYNS_BEFORE_SEEN: u32 = 4;
/// Connection attempts of one attempt on all its lanes. Where the other side hears each word 100 ms late, a side that is refused within
/// 1 ms uses about 50 on each of the [`ROUNDS`] before the other begins, and needs some beyond (measured: with 200, 2 of 2,000 kernel
/// runs of a side that resets with one that answers by ICMP had none left for the last).
pub const SYNS_PER_ATTEMPT: u32 = 300;
/// SYNs to one IPv4 address or IPv6 /64 within [`INTRODUCTION_WINDOW`], of all attempts together: a full
/// lobby behind one resetting NAT needs 15 times 30 (measured). A broker that introduces strangers
/// without end must not make a peer into a flood against whom it names.
pub const SYNS_PER_ADDRESS: u32 = 600;
/// Connection attempts on a host candidate: its listener stood before the address was told, so a
/// refusal there is hardly ever the peer's.
pub const SYNS_PER_HOST_LANE: u32 = 24;
/// Addresses tried in one attempt.
pub const LANES_PER_ATTEMPT: usize = 16;
/// A refused lane fires again about this much after its last fire, at least, with jitter because
/// two fixed schedules phase-lock. Where both NATs reset, two SYNs must cross within the round trip
/// between them: at 0.1 ms, 100 SYNs with 4 ms between them did not always do it (measured).
pub const REFIRE_LEAST: Duration = Duration::from_millis(1);
/// Answers by ICMP after which a lane still fires again at once. Linux sends six in a row to one
/// address before it limits itself to one a second (icmp_ratelimit), and the next SYN stays.
pub const REFIRE_AT_ONCE: u32 = 8;
/// Refusals that came back within [`REFIRE_LEAST`] after which a lane still fires again at once: so
/// near, the SYNs of two sides cross only if both fire almost without pause. Few, because most often
/// one side alone refuses, and each of them is for nothing (measured at 0.05 ms: 40 of them cost 21
/// SYNs in the median where 2 suffice).
pub const REFUSED_AT_ONCE: u32 = 8;
/// Descriptors that volleys leave to the program around, and to what comes in.
pub const DESCRIPTORS_RESERVED: usize = 128;
/// Rounds of one attempt, the first from the doors included: each is another pair of local ports, and differs from the
/// one before.
pub const ROUNDS: u8 = 4;
/// A further round begins when one has led to nothing for two bounds of the round trip and this: before the
/// kernel sends a lost SYN again, after the slowest refusals were answered.
pub const ROUND_AFTER: Duration = Duration::from_millis(400);
/// The same where a NAT may be symmetric and nobody could tell: the first round is half in vain.
pub const ROUND_AFTER_DOUBT: Duration = Duration::from_millis(100);
/// The same after a round of many ports.
pub const ROUND_AFTER_VOLLEY: Duration = Duration::from_millis(1800);
/// The same after a volley that is small enough for every round: a little longer than misses are held, [`MISS_HELD`].
pub const ROUND_AFTER_SMALL_VOLLEY: Duration = Duration::from_millis(1000);
/// Own ports of a side whose NAT chooses them at random, and ports that the other side dials: 99.84 % meet, 99.45 % where
/// one of ten packets is lost (measured; 1 - (1 - 400/64512)^1024 = 99.83 %).
pub const BIRTHDAY_SPREAD: (u16, u16) = (400, 1024);
/// The ports that such a NAT may choose: all that are no well-known ones.
pub const BIRTHDAY_PORTS: (u16, u16) = (1024, 65535);
/// Ports of a block of which this side dials so many: of 2,048 ports, with [`BLOCK_SPREAD`] own of the other side, 99.95 %
/// meet, and both together stay below 300 SYNs unless an attempt is planned twice.
pub const BLOCK_PORTS: u16 = 160;
/// Own ports of a side with a block: carriers limit sessions, and their blocks are small.
pub const BLOCK_SPREAD: u16 = 96;
/// And the fewest, an eighth of a block of 64.
pub const BLOCK_SPREAD_LEAST: u16 = 8;
/// A volley of so many is fired in every round: with 8 own ports and 64 dialled all rounds stay below 300 SYNs.
pub const BLOCK_SMALL: u16 = 64;
/// A block that is larger is treated as any port: the fewer ports of a block would not meet.
pub const BLOCK_LARGEST: u16 = 4096;
/// Ports that are dialled behind the last one that a stepping NAT was seen to give: others behind that NAT may have
/// taken so many meanwhile.
pub const STEPS_AHEAD: u16 = 32;
/// Own ports of a side behind a stepping NAT.
pub const STEPS_SPREAD: u16 = 8;
/// And where both step. One pair meets if neither NAT has given away as many meanwhile.
pub const STEPS_BOTH: u16 = 24;
/// First SYNs that a volley may have for what was refused, beside its shots: both sides together stay below 1,500 unless an attempt is
/// planned twice.
pub const REFIRES_OF_VOLLEY: u16 = 30;
/// First SYNs toward one subscriber within [`INTRODUCTION_WINDOW`] at many ports, of all attempts: two of the largest.
pub const VOLLEY_SYNS_PER_ADDRESS: u32 = 2200;
/// Connects of a volley that begin at once, and the pause to the next: 16,000 a second; no timer ticks faster.
pub const VOLLEY_BATCH: usize = 16;
/// See [`VOLLEY_BATCH`].
pub const VOLLEY_PACE: Duration = Duration::from_millis(1);
/// How long a miss at one of many ports is kept: its hole waits for who is late, and the kernel sends the SYN again after a
/// second (measured: 1,024 sockets left alone send 2,449 by 2 s).
pub const MISS_HELD: Duration = Duration::from_millis(900);
/// How long own ports toward one port are held: the other side may be late. The kernel sends each SYN again once, and not
/// twice.
pub const SPREAD_HELD: Duration = Duration::from_millis(1900);
/// Who refuses is known so long after Go, and two round trips, where a survey that tells it is under way: silence is taken for an answer
/// [`KNOCK_SILENT_AFTER`] and some round trips after the registration.
pub const REFUSAL_KNOWN_WITHIN: Duration = Duration::from_millis(60);
/// From this round trip on enough of the SYNs of two large volleys cross, which take up to 64 ms each, and an order that rests on a guess
/// would cost more time than it is worth.
pub const CROSSES_FROM: Duration = Duration::from_millis(30);
/// Below this bound of the round trip what must cross keeps a pace of its own. A SYN crosses what leaves within half a round trip, and
/// farther away all of them do.
pub const CROSSING_NEAR: Duration = Duration::from_millis(12);
/// Ports that step: the own ones are fired one after the other over so long, and what is dialled of the other side's leaves at once in
/// the middle. Some cross wherever the two clocks are less than half of it apart.
pub const CROSSING_STEPS_OVER: Duration = Duration::from_millis(6);
/// A block: both sides fire evenly over so long. (Measured with real kernels at 1 ms, a block of 1,024: 67 of 80 runs connect, and 54 of 80 where
/// one side fires its ports at once; over 3 ms 51 of 60, over 2 ms 50.)
pub const CROSSING_BLOCK_OVER: Duration = Duration::from_millis(4);
/// In so many steps; more ports leave together.
pub const CROSSING_SHOTS: usize = 16;
/// What must cross leaves at the latest so long after Go, and two round trips: the other side's word may be lost with the broker.
pub const CROSSING_WITHIN: Duration = Duration::from_millis(600);
/// From this bound of the round trip on, who is second by an order does not wait for the word where ports step: what it fires an eighth of
/// the bound after the round began is under way for long enough. It saves three eighths of the bound, of 1.6 s in all at 200 ms to the
/// broker and between the two (simulated).
pub const HURRIES_FROM: Duration = Duration::from_millis(200);
/// Who fires first says that all is out before it is, where the word takes longer than what is left; by so much longer, because a busy
/// machine may take so long from the one to the other.
pub const FIRED_SAID_BEFORE: Duration = Duration::from_millis(5);
/// Who is ready to fire first has fired so long after that was heard, if the word of it is lost.
pub const FIRED_WITHIN: Duration = Duration::from_millis(400);
/// Who is to fire second and hears nothing has its SYNs at the other side so long after Go: all that was fired there at Go is out
/// and held, [`MISS_HELD`], and so it is where that Go was half a second late.
pub const SECOND_WITHIN: Duration = Duration::from_millis(700);
/// The same where the other side holds its ports for [`SPREAD_HELD`].
pub const SECOND_WITHIN_LONG: Duration = Duration::from_millis(1300);
/// Own ports of which one half was fired without any word: the rest, where the other side's Go was more than a second late.
pub const SECOND_REST_WITHIN: Duration = Duration::from_millis(1500);
/// An attempt that needs luck with ports has shown all it can after this.
pub const VOLLEY_WITHIN: Duration = Duration::from_millis(7500);
/// The first SYNs leave up to this share of a round trip after Go, at random: where one side hears Go half a round trip late, the
/// answer to the early SYN and the late SYN meet at one instant otherwise, and their repetitions too (simulated: 2 of 9 medians of
/// pairs with an ICMP refusal are a second late without).
pub const STAGGER: f64 = 1.0 / 32.0;
/// For this long after its first fire a refused lane fires again at the pace of its refusals, but for [`REFIRE_SHARE`].
pub const REFIRE_FAST_FOR: Duration = Duration::from_millis(600);
/// Of the time for which a refused lane has fired so much passes before it fires again. Where refusals take
/// 0.2 ms the SYNs of a lane last about 190 ms so, and 90 without: the other side may hear Go 100 ms later (measured: 11 of 1,500 kernel
/// runs of a side that resets with one that answers by ICMP ended without a path).
pub const REFIRE_SHARE: f64 = 1.0 / 32.0;
/// Thereafter a refused lane fires again this often, with jitter.
pub const REFIRE_SLOW: Duration = Duration::from_millis(100);
/// Added to the bound of the round trip when a lane whose 4-tuple is alive waits for the accept.
pub const STUCK_AFTER: Duration = Duration::from_millis(250);
/// Added to two bounds of the round trip: from a TCP connection to its first verified record. What one of many ports hit is not hit
/// again: three lost segments in a row cost 1.4 s and more.
pub const AUTHENTICATE_WITHIN: Duration = Duration::from_millis(2500);
/// After the last lane died the listener may still be reached by the peer; added to two bounds of
/// the round trip.
pub const LISTEN_ON_FOR: Duration = Duration::from_millis(2500);
/// Lanes fired at once; further ones follow at [`LANE_PACE`].
pub const LANES_AT_ONCE: usize = 6;
/// Pause between the lanes beyond [`LANES_AT_ONCE`].
pub const LANE_PACE: Duration = Duration::from_millis(5);
/// Accepted sockets that have not shown a known tag: all, and from one address. The oldest is
/// dropped for a new one.
pub const UNKNOWN_ACCEPTED: usize = 64;
/// See [`UNKNOWN_ACCEPTED`].
pub const UNKNOWN_ACCEPTED_PER_ADDRESS: usize = 4;
/// Connections with a known tag that one attempt authenticates at once: each lane has one, and a
/// tag seen on the way can be copied.
pub const ARRIVALS: usize = 32;
/// Added to two bounds of the round trip, for a connection that one side may have nominated: the
/// other side may be using it already, and a reset would leave it alone with it. Where the first SYN and the first segment are
/// lost, that segment is sent again after 3 s (RFC 6298, section 5.7).
pub const NOMINATED_WITHIN: Duration = Duration::from_millis(3500);
/// An accepted socket without a tag is dropped after this: two round trips of a satellite link.
pub const TAG_WITHIN: Duration = Duration::from_millis(2500);
/// Bound of the round trip between the peers is never taken to be less: the broker's measurement
/// on loopback is a few microseconds, and a loaded machine needs longer to answer.
pub const ROUND_TRIP_LEAST: Duration = Duration::from_millis(20);
/// Nor more: it would make a lost lane wait for as long.
pub const ROUND_TRIP_MOST: Duration = Duration::from_secs(3);
/// Introductions that a member of a lobby takes within [`INTRODUCTION_WINDOW`]: a full lobby that
/// comes back at once after its broker was started again, and as many newcomers. More is a hostile
/// broker or a flood.
pub const LOBBY_INTRODUCTIONS: usize = 2 * LOBBY_MEMBERS;

/// Connections to members of a lobby that one endpoint has at once: to each that there may be, and the one
/// from before it was started again. More is a broker that makes members up.
pub const LOBBY_CONNECTIONS: usize = 2 * LOBBY_MEMBERS_MOST;

// --- Programs ---

/// Records that together are no longer than this are kept as one piece by the receiver, in bytes:
/// many small records must not cost more memory than what they carry.
pub const SMALL_CHUNK: usize = 4096;
/// Lines of chat that wait for the first member; beyond it no more are taken in. A file of them ends, and nobody having come can
/// be told, before that.
pub const CHAT_BACKLOG: usize = 16 * 1024;
/// Bytes of these lines together: 256 of the longest.
pub const CHAT_BACKLOG_BYTES: usize = 256 * MAX_LINE;
/// From a hello in the open lobby to the words to compare: a round trip, and what the retransmission of a
/// lost segment costs. Who takes longer withholds them.
pub const WORDS_WITHIN: Duration = Duration::from_secs(10);
/// Members of a chat whose going and coming back is told as such; beyond it all are forgotten.
pub const CHAT_REMEMBERED: usize = 1024;
/// Lines of chat that wait for one slow member; while they do no more are taken in.
pub const CHAT_QUEUE: usize = 256;
/// A member that has not taken one line within this, while others wait for it, is given up; and who leaves waits so long to hear that
/// its last lines came. As long as a member that says nothing at all.
pub const CHAT_STALLED: Duration = DEAD_AFTER;
/// An arriver that waits asks for its code this often: below the broker's limit of claims.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// A wait that lasts longer than this is explained: shorter ones are over before they are read.
pub const EXPLAIN_AFTER: Duration = Duration::from_secs(1);
/// A report on the own network waits this long for what is still being measured: the longest of its silences, and the
/// registration over the other family beside it.
pub const REPORT_WITHIN: Duration = Duration::from_secs(8);
/// So long a report waits for a link over the other address family: two steps of [`NEXT_ADDRESS_AFTER`].
pub const OTHER_FAMILY_WITHIN: Duration = Duration::from_millis(500);
/// Pings that `ping` sends unless `--count` says otherwise: the first may pay for a sleeping radio
/// or a cold cache, three more show what is usual.
pub const PINGS: u64 = 4;
/// Shortest pause between pings: a hundred a second measure; more would be load.
pub const PING_PAUSE_LEAST: Duration = Duration::from_millis(10);
/// Round trips of which the median is taken; of a longer series those of the end, half a megabyte.
pub const PING_SAMPLES: usize = 32 * 1024;
/// Lines that the line editor of a chat remembers.
pub const TYPED_HISTORY: usize = 1000;
/// How long the end of a chat waits for the line editor to show what was said before it.
pub const EDITOR_ENDS_WITHIN: Duration = Duration::from_millis(500);
/// How long the demonstration may take in all.
pub const DEMO_WITHIN: Duration = Duration::from_secs(5);
/// The key that hides addresses in a broker's log is drawn anew after this, so that days can't be
/// linked.
pub const LOG_KEY_LIFE: Duration = Duration::from_secs(24 * 3600);
