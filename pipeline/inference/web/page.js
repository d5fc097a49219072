// Asks, shows the answer, and keeps the question in the address, so that it can be gone back to and shared.

import { light, round, show } from "./hits.js";
import { BADGES, Plane, on } from "./plane.js";

const by = (id) => document.getElementById(id);
const FIELDS = ["split", "emotion"];
let about = null;
let point = null; // where the plane was asked: {valence, arousal}
let asking = new AbortController();

const plane = new Plane(by("plane"), askPoint, point_out);

function point_out(rank, chosen) {
  plane.light(rank);
  light(by("hits"), rank);
  if (!chosen) return;
  by(`hit-${rank}`).scrollIntoView({ block: "nearest" });
  by(`hit-${rank}`).focus({ preventScroll: true });
}

async function get(address, signal) {
  const answer = await fetch(address, { signal });
  const said = await answer.text();
  if (answer.ok) return JSON.parse(said);
  let why = said.trim();
  try {
    why = JSON.parse(said).error;
  } catch { /* a line as it is */ }
  throw new Error(why || `the server says ${answer.status}`);
}

function complain(error) {
  const line = error instanceof TypeError ? "The server does not answer: was it stopped?" : error.message;
  by("error").textContent = line;
  by("error").hidden = false;
}

// The question as the form holds it.
function query() {
  const asked = new URLSearchParams({ q: by("sentence").value, top: by("top").value });
  for (const name of FIELDS) {
    for (const box of by(name).querySelectorAll("input:checked")) asked.append(name, box.value);
  }
  if (by("speaker").value) asked.append("speaker", by("speaker").value);
  return asked;
}

// One question at a time: a new one takes the place of one that is not answered yet.
async function answered(work) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  by("hits-part").setAttribute("aria-busy", "true");
  by("status").textContent = "Searching …";
  by("error").hidden = true;
  try {
    await work(signal);
  } catch (error) {
    if (signal.aborted) return;
    complain(error);
    by("status").textContent = "";
    by("hits").replaceChildren();
    plane.hits([]);
  }
  if (!signal.aborted) by("hits-part").setAttribute("aria-busy", "false");
}

async function ask(signal, remember = true) {
  const asked = query();
  if (remember) {
    const address = new URLSearchParams(asked);
    if (point) address.append("at", `${round(point.valence)},${round(point.arousal)}`);
    if (`?${address}` !== location.search) history.pushState(null, "", `?${address}`);
  }
  document.title = `${by("sentence").value} – Search speech`;
  plane.asked(point);
  const answer = await get(`ask?${asked}`, signal);
  if (signal.aborted) return;
  show(by("hits"), answer.hits, about.heard, point_out);
  plane.hits(answer.hits);
  by("status").textContent = said(answer);
}

function askPoint(valence, arousal) {
  by("valence").value = round(valence);
  by("arousal").value = round(arousal);
  answered(async (signal) => {
    const { sentence } = await get(`sentence?${new URLSearchParams({ valence, arousal })}`, signal);
    if (signal.aborted) return;
    by("sentence").value = sentence;
    point = { valence, arousal };
    await ask(signal);
  });
}

function said({ asked, hits, fit }) {
  const unticked = about.hidden && !by("split").querySelector("input:checked");
  const rest = unticked ? " Those trained on are left out: tick their split." : "";
  if (!fit) return `No utterance fits the filter.${rest}`;
  if (!hits.length) return "Nothing found: the heads give this sentence no direction.";
  const off = hits.filter((hit) => !on(hit)).length;
  const more = hits.length - off > BADGES ? ` The plane numbers the first ${BADGES}.` : "";
  const lacking = off ? ` ${off} without both labels: listed, not on the plane.` : "";
  const words = asked.length > 160 ? `${asked.slice(0, 160)} …` : asked; // a narrow field shows half a sentence
  return `“${words}”: the nearest ${hits.length} of ${fit.toLocaleString("en")} utterances that fit.${lacking}${more}${rest}`;
}

function offer(name, values) {
  by(name).hidden = !values.length;
  for (const value of values) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = value;
    label.append(box, value);
    by(name).append(label);
  }
}

function introduce() {
  for (const name of FIELDS) offer(name, about.fields[name]);
  by("speaker-label").hidden = !about.fields.speaker.length;
  by("speakers").append(...about.fields.speaker.map((name) => new Option(name, name)));
  by("sentence").maxLength = about.longest;
  by("top").max = about.most;
  plane.cloud(about.cloud);
  const [drawn, labelled] = [about.drawn, about.labelled].map((count) => count.toLocaleString("en"));
  by("cloud-said").textContent = about.labelled
    ? `Grey: ${drawn} of ${labelled} searched utterances with both labels; a larger dot is several at one point.`
    : "No utterance searched has both labels: the plane can be asked, and shows no hits.";
  const facts = {
    run: about.run,
    method: `${about.method}, trained on captions of style ${about.style}`,
    stores: about.stores,
    searched: counts(),
    heard: `the speech encoder heard the ${about.crop === "center" ? "middle" : "first"} ${about.heard} s of each `
      + `at most, a player plays ${about.played / 60} minutes at most`,
  };
  for (const [name, value] of Object.entries(facts)) {
    const [term, words] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, words.textContent] = [name, value];
    by("facts").append(term, words);
  }
}

function counts() {
  const numbers = [about.searched, about.fitting, about.manifest];
  const [searched, fitting, manifest] = numbers.map((count) => count.toLocaleString("en"));
  const filter = Object.entries(about.among).map(([name, values]) => `${name} ${values.join(" or ")}`).join(", ");
  const which = filter ? `${fitting} utterances of ${filter} (${manifest} in all)` : `${fitting} utterances`;
  const rest = about.searched < about.fitting ? "; the others failed, are pending, or have no direction" : "";
  const hidden = about.hidden ? `; ${about.hidden.toLocaleString("en")} trained on, found where their split is ticked` : "";
  return `${searched} of ${which}${rest}${hidden}`;
}

// The form as the address has it.
function restore() {
  const asked = new URLSearchParams(location.search);
  by("sentence").value = asked.get("q") ?? "";
  by("top").value = asked.get("top") ?? about.top;
  for (const name of FIELDS) {
    for (const box of by(name).querySelectorAll("input")) box.checked = asked.getAll(name).includes(box.value);
  }
  by("speaker").value = asked.get("speaker") ?? "";
  const [valence, arousal] = (asked.get("at") ?? "").split(",").map(Number);
  point = valence >= 1 && valence <= 7 && arousal >= 1 && arousal <= 7 ? { valence, arousal } : null;
  if (point) [by("valence").value, by("arousal").value] = [valence, arousal];
  if (by("sentence").value) answered((signal) => ask(signal, false));
  else blank();
}

function blank() {
  asking.abort();
  by("hits").replaceChildren();
  by("hits-part").setAttribute("aria-busy", "false");
  by("error").hidden = true;
  document.title = "Search speech";
  plane.asked(null);
  plane.hits([]);
  by("status").textContent = "Nothing asked yet.";
}

by("question").addEventListener("submit", (event) => {
  event.preventDefault();
  answered(ask);
});
by("sentence").addEventListener("input", () => { point = null; }); // another sentence is no longer the point's
by("question").addEventListener("change", (event) => {
  if (event.target.id !== "sentence" && by("sentence").value && by("question").reportValidity()) answered(ask);
});
by("point").addEventListener("submit", (event) => {
  event.preventDefault();
  askPoint(Number(by("valence").value), Number(by("arousal").value));
});
document.addEventListener("play", (event) => { // one at a time
  event.target.classList.add("played");
  for (const audio of document.querySelectorAll("audio")) if (audio !== event.target) audio.pause();
}, true);
window.addEventListener("popstate", restore);

try {
  about = await get("about");
  introduce();
  restore();
} catch (error) {
  complain(error);
  by("status").textContent = "";
}
