"use strict";

// One image at a time. A decision is sent with the one that the page has seen, and the next image
// shows only after the server has it on disk. While it waits, keys and buttons do nothing.
const FEW = 10; // up to this many classes have a key each; with more, the first letters filter
const part = (id) => document.getElementById(id);
let queue, place, item, busy = true;
const made = []; // the places of this page's decisions, to undo them
const seen = []; // by place, the decision that the page has last shown

async function ask(path, content) {
  const sent = content && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  };
  const answer = await fetch(path, sent);
  if (!answer.ok) {
    const error = new Error(await answer.text());
    error.changed = answer.status === 409;
    throw error;
  }
  return answer.json();
}

function say(text) {
  part("message").textContent = text;
}

async function alone(work) {
  if (busy) return;
  busy = true;
  say("");
  try {
    await work();
  } catch (error) {
    if (error.changed) await show(place).catch(() => {}); // first: who reads the message sees it
    say(error.message === "Failed to fetch" ? "the server has ended: nothing was decided" : error.message);
  }
  busy = false;
}

function named(entry) {
  return entry.character ? `${entry.name} ${entry.character}` : entry.name;
}

async function show(number) {
  item = await ask(`items/${number}`);
  place = number;
  const answers = item.answers.map((each) => {
    const line = document.createElement("li"), average = document.createElement("img");
    line.append(`${named(queue.classes[each.class])}  ${(100 * each.probability).toFixed(1)} %`);
    average.src = queue.classes[each.class].average;
    average.alt = `average image of ${queue.classes[each.class].name}`;
    line.append(average);
    return line;
  });
  part("answers").replaceChildren(...answers);
  part("best").textContent = named(queue.classes[item.answers[0].class]);
  part("image").src = item.image;
  part("origin").textContent = `${place + 1} of ${queue.total}: ${item.origin}`;
  part("label").textContent = item.label ?? "none: a new image";
  part("filter").value = "";
  part("filter").blur(); // so that keys have their meaning again
  list();
  progress(item);
}

function progress(state) {
  Object.assign(item, state);
  seen[place] = item.decision;
  part("decision").textContent = item.decision ?? "none yet";
  part("bar").max = queue.total;
  part("bar").value = queue.total - item.left;
  part("left").textContent = item.left ? `${item.left} left` : "all images are decided";
  for (const button of part("classes").children) {
    button.classList.toggle("chosen", button.value === item.decision);
  }
  document.body.dataset.place = place; // for whoever waits until an image shows
}

function matching() {
  const typed = part("filter").value.toLowerCase();
  return queue.classes.filter((each) => named(each).toLowerCase().startsWith(typed) || each.character === typed);
}

function list() {
  const buttons = matching().map((each) => {
    const button = document.createElement("button"), number = queue.classes.indexOf(each);
    if (queue.classes.length <= FEW) {
      const key = document.createElement("kbd");
      key.textContent = number;
      button.append(key, " ");
    }
    button.append(named(each));
    button.value = each.name;
    button.classList.toggle("chosen", each.name === item.decision);
    button.addEventListener("click", () => alone(() => decide(each.name)));
    return button;
  });
  part("classes").replaceChildren(...buttons);
}

async function decide(after) {
  const state = await ask(`items/${place}`, { before: item.decision, after });
  made.push(place);
  progress({ ...state, decision: after });
  if (state.next !== null) await show(state.next);
}

async function takeBack() {
  const last = made.at(-1) ?? place;
  const before = seen[last]; // not what `show` finds now: another page may have decided meanwhile
  if (last !== place) await show(last);
  if (before === null) say("there is no decision to undo");
  else progress(await ask(`items/${place}`, { before, after: null }));
  made.pop(); // only now: after an error the next `z` tries the same decision
}

const step = (by) => show((place + by + queue.total) % queue.total);
const accept = () => decide(queue.classes[item.answers[0].class].name);
const actions = {
  Enter: accept,
  x: () => decide("excluded"),
  z: takeBack,
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !queue) return;
  const filter = part("filter"), filled = filter.value !== "";
  const typing = document.activeElement === filter || filled; // then x and z are letters
  const many = queue.classes.length > FEW;
  let action = actions[event.key] || (!many && actions[event.key.toLowerCase()]); // Caps Lock
  if (event.key === "Escape") action = async () => { filter.value = ""; filter.blur(); list(); };
  if (filled && event.key.startsWith("Arrow")) return; // moves within the text
  if (filled && event.key === "Enter") {
    const [first] = matching();
    action = async () => (first ? decide(first.name) : say("no class begins with this"));
  } else if (many && event.key.length === 1 && (typing || !(event.key in actions))) {
    return filter.focus(); // and the letter goes into it
  } else if (!many && /^[0-9]$/.test(event.key) && queue.classes[event.key]) {
    action = () => decide(queue.classes[event.key].name);
  }
  if (!action) return;
  event.preventDefault(); // also of a focused button, which Enter would press
  alone(action);
});

part("filter").addEventListener("input", list);
for (const [id, key] of Object.entries({
  accept: "Enter", exclude: "x", back: "z", previous: "ArrowLeft", following: "ArrowRight",
})) {
  part(id).addEventListener("click", () => alone(actions[key]));
}

(async () => {
  try {
    queue = await ask("queue");
    document.title = part("title").textContent = `Review: ${queue.title}`;
    part("typing").hidden = queue.classes.length <= FEW;
    await show(queue.first);
    busy = false;
  } catch (error) {
    say(error.message);
  }
})();
