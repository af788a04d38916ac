// The page: sends a clip, watches it being segmented, shows the result beside it.

const find = id => document.getElementById(id);
const [before, after, still, stage] = ["before", "after", "still", "stage"].map(find);
const POLL = 300;  // milliseconds
const STILLS = ["webp", "gif"];  // kinds that are shown as pictures

let clip = null;  // path of the clip on the server
let sending = null;  // the request that sends it
let limit = Infinity;
let shown = null;  // the result that is on the page

const size = bytes => bytes >= 2 ** 30 ? `${+(bytes / 2 ** 30).toPrecision(3)} GB` : `${+(bytes / 2 ** 20).toPrecision(3)} MB`;

function problem(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
  if (text) find("progress").hidden = true;
}

function progress(text, share = null) {
  find("progress").hidden = false;
  find("status").textContent = text;
  if (share === null) find("bar").removeAttribute("value"); else find("bar").value = share;
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; is maskvos app still running?");
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `error ${answer.status}`);
  return answer;
}

// fetch does not say how much has been sent.
function send(method, path, file, note) {
  return new Promise((done, fail) => {
    if (file.size > limit) return fail(new Error(`${file.name} has ${size(file.size)}; files may have ${size(limit)}`));
    const request = sending = new XMLHttpRequest();
    request.open(method, path);
    request.upload.onprogress = event => progress(`${note}: ${size(event.loaded)} of ${size(file.size)}`, event.loaded / file.size);
    request.onload = () => {
      const answer = request.response ?? {};
      request.status < 300 ? done(answer) : fail(new Error(answer.error ?? `error ${request.status}`));
    };
    request.onerror = () => fail(new Error("The server does not answer; is maskvos app still running?"));
    request.onabort = () => fail(new Error("Cancelled"));
    request.responseType = "json";
    request.send(file);
  }).finally(() => { sending = null; });
}

async function open(file) {
  problem("");
  if (clip) call(clip, { method: "DELETE" }).catch(() => {});
  clip = shown = null;
  find("view").hidden = true;
  find("chosen").textContent = file.name;
  find("limit").textContent = "Drop another clip here, or choose one";
  try {
    const { id } = await send("POST", `clips?name=${encodeURIComponent(file.name)}`, file, `Sending ${file.name}`);
    clip = `clips/${id}`;
    before.src = `${clip}/clip`;
    await start();
  } catch (error) {
    problem(error.message);
  }
}

async function start() {
  problem("");
  find("apply").disabled = true;
  try {
    const chosen = find("background").value;
    if (find("kind").value === "background" && chosen === "file") {
      const [picture] = find("picture").files;
      if (!picture) throw new Error("Choose a picture or a movie for the background");
      await send("PUT", `${clip}/background`, picture, `Sending ${picture.name}`);
    }
    const settings = {
      kind: find("kind").value,
      threshold: Number(find("threshold").value),
      background: chosen === "color" ? find("color").value : chosen,
    };
    await call(`${clip}/start`, { method: "POST", body: JSON.stringify(settings) });
    await watch(clip);
  } catch (error) {
    problem(error.message);
  } finally {
    find("apply").disabled = clip === null;
  }
}

async function watch(path) {
  for (;;) {
    const state = await (await call(path)).json();
    if (path !== clip) return;  // another clip has been chosen
    if (state.state === "failed") throw new Error(state.error);
    if (state.state === "done") return show(path, state);
    if (state.position > 0) {
      progress(`Waiting: ${state.position} ${state.position > 1 ? "clips come" : "clip comes"} first`);
    } else if (state.done) {
      progress(`Frame ${state.done}${state.frames ? ` of ${state.frames}` : ""}`, state.frames ? state.done / state.frames : null);
      if (!shown) peek(path, state.done);
    } else {
      progress("Starting");
    }
    await new Promise(done => setTimeout(done, POLL));
  }
}

// The latest frame, while there is no result yet.
function peek(path, number) {
  stage.classList.remove("both");
  before.hidden = after.hidden = find("controls").hidden = true;
  still.hidden = find("view").hidden = false;
  still.alt = "The latest frame";
  still.src = `${path}/preview?${number}`;
  find("note").textContent = "";
}

function show(path, state) {
  shown = state.result;
  const url = `${path}/result?${shown}`;
  find("progress").hidden = true;
  find("view").hidden = find("controls").hidden = false;
  find("download").href = `${url}&download`;
  const picture = STILLS.includes(state.kind);
  still.alt = "The result";
  still.hidden = !picture;
  after.hidden = picture;
  before.hidden = picture;
  find("note").textContent = "";
  if (picture) still.src = url; else { after.src = url; after.load(); before.currentTime = 0; }
  layout();
}

// Two videos where the browser can show both.
function layout() {
  const playable = video => video.src && !video.error;
  const moving = !after.hidden || !before.hidden;
  if (moving) {
    after.hidden = !playable(after);
    before.hidden = !playable(before);
  }
  stage.classList.toggle("both", !before.hidden && !after.hidden);
  find("compare-label").hidden = !stage.classList.contains("both");
  find("play").hidden = before.hidden && after.hidden;
  const missing = [[before, "the clip"], [after, "the result"]].filter(([video]) => moving && !playable(video)).map(([, name]) => name);
  if (missing.length) find("note").textContent = `This browser cannot show ${missing.join(" and ")}; other programs can.`;
}

function pause(stop) {
  for (const video of [before, after]) {
    if (stop) video.pause(); else if (!video.hidden) video.play().catch(() => {});
  }
  find("play").textContent = stop ? "Play" : "Pause";
}

for (const video of [before, after]) video.addEventListener("error", () => { if (shown) layout(); });
after.addEventListener("loadeddata", () => pause(matchMedia("(prefers-reduced-motion: reduce)").matches));
after.addEventListener("timeupdate", () => {
  if (Math.abs(before.currentTime - after.currentTime) > 0.1) before.currentTime = after.currentTime;
});
find("play").onclick = () => pause(find("play").textContent === "Pause");
find("compare").oninput = event => {
  stage.style.setProperty("--at", `${event.target.value}%`);
  event.target.setAttribute("aria-valuetext", `${event.target.value}% clip, ${100 - event.target.value}% result`);
};
find("threshold").oninput = event => { find("level").value = Number(event.target.value).toFixed(2); };
find("kind").onchange = find("background").onchange = () => {
  find("backgrounds").hidden = find("kind").value !== "background";
  find("color-label").hidden = find("background").value !== "color";
  find("picture-label").hidden = find("background").value !== "file";
};
find("settings").onsubmit = event => { event.preventDefault(); if (clip) start(); };
find("cancel").onclick = () => {
  if (sending) return sending.abort();
  const gone = clip;
  clip = null;
  find("progress").hidden = find("view").hidden = true;
  find("apply").disabled = true;
  if (gone) call(gone, { method: "DELETE" }).catch(error => problem(error.message));
};
find("file").onchange = event => {
  const [file] = event.target.files;
  event.target.value = "";  // the same file may be chosen again
  if (file) open(file);
};
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, event => { event.preventDefault(); find("drop").classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) addEventListener(name, () => find("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) open(file);
});
addEventListener("pagehide", () => {
  if (clip) fetch(clip, { method: "DELETE", keepalive: true }).catch(() => {});
});

call("about").then(async answer => {
  ({ limit } = await answer.json());
  find("limit").textContent = `Any video file up to ${size(limit)}`;
}).catch(error => problem(error.message));
