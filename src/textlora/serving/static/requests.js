// Requests to the server: the key it may ask for, patience when it is busy, errors a person can read.

import { at } from "./dom.js";

const MOST_TRIES = 6;
const LONGEST_WAIT = 30;
// In this variable only: gone with the page.
let key = "";
let asking = null;

export class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => key !== "";

// Sends a request and returns the response when it is a good one. `onWait` is told the seconds when the server is
// busy, and 0 when the next try begins.
export async function ask(path, options = {}) {
  return patiently(() => send(path, options), options);
}

// The same for a file, whose way can be watched: `onProgress` is told the share that has been sent.
export async function upload(path, file, options = {}) {
  return patiently(() => sendFile(path, file, options), options);
}

async function patiently(attempt, { signal, onWait = () => {} }) {
  let refused = false;
  for (let tries = 1; ; ) {
    const answer = await attempt();
    if (answer.status === 401) {
      if (!(await askForKey(refused || hasKey()))) throw new Problem("This server asks for an API key.", 401);
      refused = true;
    } else if (answer.status === 429 && tries < MOST_TRIES) {
      tries += 1;
      const seconds = Math.min(LONGEST_WAIT, Math.max(1, Number(answer.headers.get("Retry-After")) || tries));
      onWait(seconds);
      await pause(seconds, signal);
      onWait(0);
    } else if (!answer.ok) {
      throw new Problem(await told(answer), answer.status);
    } else {
      return answer;
    }
  }
}

async function send(path, { method = "GET", json, signal, leaving = false }) {
  const headers = authorized(json === undefined ? {} : { "Content-Type": "application/json" });
  try {
    return await fetch(path, { method, headers, signal, keepalive: leaving, body: json === undefined ? undefined : JSON.stringify(json) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer. Is it still running?");
  }
}

function sendFile(path, file, { signal, onProgress = () => {} }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorized({ "Content-Type": "application/octet-stream" }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => onProgress(event.total ? event.loaded / event.total : 0);
    request.onload = () => {
      const headers = { "Retry-After": request.getResponseHeader("Retry-After") ?? "" };
      resolve(new Response(request.status === 204 ? null : request.responseText, { status: request.status, headers }));
    };
    request.onerror = () => reject(new Problem("The upload broke off. Is the server still running?"));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

const authorized = (headers) => (key ? { ...headers, Authorization: `Bearer ${key}` } : headers);

async function told(answer) {
  const body = await answer.text();
  let message = "";
  try {
    const parsed = JSON.parse(body);
    message = typeof parsed.error === "string" ? parsed.error : "";
  } catch {
    // Not ours: a proxy's page, perhaps.
  }
  if (answer.status === 429) return "The server is busy and stayed so. Try again in a while.";
  if (answer.status === 413 && !message) return "That is more than this server takes.";
  return message || `The server answered with an error (${answer.status}).`;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, 1000 * seconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

// Several requests may be refused at once: one dialog serves them all.
function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = at("key-dialog");
    at("key-note").textContent = wrong ? "The server does not accept this key." : "This server asks for a key.";
    at("key").value = "";
    dialog.returnValue = "cancel";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        const given = dialog.returnValue === "ok" ? at("key").value.trim() : "";
        at("key").value = "";
        key = given || key;
        resolve(given !== "");
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}
