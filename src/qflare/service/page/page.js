// Keeps the page up to date from its event stream, and checks the log's proofs when asked to.

import { continues, fromBase64, hashLeaf, leadsTo } from "./proofs.js";

const RETRY_MS = 15000;
const main = document.getElementById("main");
const live = document.getElementById("live");
const said = document.getElementById("said");
const button = document.getElementById("verify");
const verdict = document.getElementById("verdict");
const steps = document.getElementById("steps");

// --- the stream ------------------------------------------------------------------------------------------------------

let mark = main.dataset.mark;

function tell(text, isBad) {
  live.textContent = text;
  live.className = isBad ? "bad" : "soft";
}

// Spoken once when it changes, not at every refresh: how many incidents there are is what somebody must hear of.
function speak(before, now) {
  const count = (part) => Number(part.querySelector(".list")?.dataset.count ?? 0);
  if (count(before) !== count(now)) {
    said.textContent = count(now) === 1 ? "One incident is not closed." : `${count(now)} incidents are not closed.`;
  }
}

function take(parts) {
  for (const [name, markup] of Object.entries(parts)) {
    const place = document.getElementById(`part-${name}`);
    const fresh = document.createElement("div");
    // Made by the server, where everything that is not markup of ours was escaped; the policy forbids scripts in it.
    fresh.innerHTML = markup;
    if (name === "incidents") {
      speak(place, fresh);
    }
    // Whoever is on a link of it stays there.
    const held = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    place.replaceChildren(...fresh.childNodes);
    if (held !== null) {
      [...place.querySelectorAll("a")].find((link) => link.getAttribute("href") === held)?.focus({ preventScroll: true });
    }
  }
}

function listen() {
  // The browser sends the last id by itself when it connects again; the first time the page says what it has.
  const source = new EventSource(`/stream?mark=${encodeURIComponent(mark)}`);
  source.addEventListener("open", () => tell("Live", false));
  source.addEventListener("parts", (event) => {
    mark = event.lastEventId;
    take(JSON.parse(event.data));
    main.dataset.mark = mark;
  });
  source.addEventListener("trouble", (event) => {
    const trouble = JSON.parse(event.data);
    tell(trouble === null ? "Live" : "Not up to date: the database does not answer as it should", trouble !== null);
  });
  source.addEventListener("end", () => {
    source.close();
    location.assign("/login");
  });
  source.addEventListener("error", () => {
    tell("Not live: the server does not answer", true);
    if (source.readyState === EventSource.CLOSED) {
      // Refused, not lost: the login is over, or too many pages are open.
      setTimeout(listen, RETRY_MS);
    }
  });
  addEventListener("pagehide", () => source.close(), { once: true });
}

// --- the log ---------------------------------------------------------------------------------------------------------

async function ask(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (!response.ok) {
    const its = `request id ${response.headers.get("x-request-id")}`;
    throw new Error(
      response.status === 404 ? "no head is signed yet" : `the server answered with ${response.status}, ${its}`,
    );
  }
  return response.json();
}

function step(isGood, text) {
  const item = document.createElement("li");
  item.textContent = `${isGood ? "✓" : "✕"} ${text}`;
  item.className = isGood ? "good" : "bad";
  steps.append(item);
  return isGood;
}

// The head this browser saw last: size and root, which are public.
function remembered(origin) {
  try {
    const head = JSON.parse(localStorage.getItem(`qflare head of ${origin}`));
    return Number.isSafeInteger(head.size) && typeof head.root === "string" ? head : null;
  } catch {
    return null;
  }
}

async function checkConsistency(head) {
  const before = remembered(head.origin);
  if (before === null) {
    return step(true, `This browser sees this log for the first time; it remembers the head of ${head.size} entries.`);
  }
  if (before.size > head.size) {
    return step(false, `The log has shrunk: this browser saw ${before.size} entries, now there are ${head.size}.`);
  }
  const proof = await ask(`/log/consistency?old=${before.size}&new=${head.size}`);
  const holds = await continues(
    fromBase64(before.root), before.size, fromBase64(head.root), head.size, proof.path.map(fromBase64),
  );
  return step(
    holds,
    holds
      ? `The head of ${head.size} entries continues the one of ${before.size} that this browser saw before.`
      : `The log has forked: the head of ${head.size} entries does not continue the one of ${before.size} seen before.`,
  );
}

async function checkEvents(head) {
  const { events } = await ask(`/log/events?size=${head.size}`);
  const wrong = [];
  for (const event of events) {
    const leafHash = await hashLeaf(fromBase64(event.leaf));
    const path = event.path.map(fromBase64);
    if (!(await leadsTo(fromBase64(head.root), leafHash, event.index, head.size, path))) {
      wrong.push(event.index);
    }
  }
  return step(
    wrong.length === 0,
    wrong.length === 0
      ? `${events.length} entries, the warnings and events above, lead to the root.`
      : `These entries do not lead to the root: ${wrong.join(", ")}.`,
  );
}

async function verify() {
  button.setAttribute("aria-disabled", "true");
  steps.replaceChildren();
  verdict.className = "verdict";
  verdict.textContent = "Checking…";
  try {
    const head = await ask("/log/head");
    const isWhole = await checkConsistency(head);
    const isIn = await checkEvents(head);
    if (isWhole && isIn) {
      // Only a head that holds is remembered: what was seen before a fork stays the evidence of it.
      localStorage.setItem(`qflare head of ${head.origin}`, JSON.stringify({ size: head.size, root: head.root }));
      verdict.textContent = `✓ The proofs hold under the head of ${head.size} entries. Its signature was not checked here.`;
      verdict.classList.add("good");
    } else {
      verdict.textContent = "✕ The proofs do not hold. Keep this page, and run qflare audit verify.";
      verdict.classList.add("bad");
    }
  } catch (failure) {
    verdict.textContent = `Not checked: ${failure.message}.`;
    verdict.classList.add("bad");
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

button.addEventListener("click", () => {
  if (button.getAttribute("aria-disabled") !== "true") {
    verify();
  }
});
if (globalThis.crypto?.subtle === undefined) {
  verdict.textContent = "This browser cannot check proofs here: WebCrypto needs https or the machine itself.";
} else {
  button.disabled = false;
}
listen();
