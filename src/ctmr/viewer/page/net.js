// Everything that the page says to the server.

export async function enter() {
  const token = location.hash.slice(1);
  if (!token) return true;
  history.replaceState(null, "", "/");
  const answer = await change("POST", "/session", JSON.stringify({ token }));
  return answer.ok || (await fetch("/jobs")).ok; // used before, by this browser
}

export function change(method, path, body) {
  return fetch(path, { method, body, headers: { "X-CTMR": "1" } });
}

const MAX_BYTES = 4 * 2 ** 30;
const MAX_FILES = 5000;
const GONE = { code: "E700", what: "the server does not answer", fix: "start ctmr view again" };

export async function json(answer) {
  try {
    return await (await answer).json();
  } catch {
    return { error: GONE };
  }
}

// Files of a drop, folders and all; only their bytes are sent on.
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      files.push(await new Promise((good, bad) => entry.file(good, bad)));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((good, bad) => reader.readEntries(good, bad));
      if (!some.length) return;
      for (const inner of some) await walk(inner);
    }
  };
  for (const entry of entries) await walk(entry);
  return files.sort((a, b) => (a.name < b.name ? -1 : 1));
}

// The error of too much, told before it is sent; the server has the same limits.
function tooMuch(files) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  if (bytes <= MAX_BYTES && files.length <= MAX_FILES) return null;
  const what = `expected at most ${MAX_BYTES} bytes and ${MAX_FILES} files: found ${bytes} and ${files.length}`;
  return { code: "E300", what, fix: "drop one series or one volume", exit: 3 };
}

// Sends files one after another, as names follow from their order; says how many were no scans.
export async function upload(job, files, show) {
  let leftOut = 0;
  const error = tooMuch(files);
  if (error) return { error };
  for (const [n, file] of files.entries()) {
    show(n, files.length);
    const id = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
    const answer = await change("PUT", `/jobs/${job}/files/${id}`, file).catch(() => null);
    if (!answer) return { error: GONE };
    if (answer.status === 415) leftOut += 1;
    else if (!answer.ok) return { error: (await json(answer)).error };
  }
  return { leftOut };
}
