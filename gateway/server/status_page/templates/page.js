"use strict";
(() => {
  const EVERY_MS = 5000;
  const PARTS = ["time", "verdict", "facts", "requests", "jobs-count", "jobs-table", "jobs-pages", "limits", "clients", "slow"];
  const button = document.getElementById("pause");
  if (!button) return;
  const state = document.getElementById("refreshing");
  let paused = false;

  const say = (text, bad) => {
    if (state.textContent !== text) state.textContent = text;
    state.classList.toggle("bad", bad);
  };
  const isBusy = () => paused || document.hidden || !window.getSelection().isCollapsed;

  // Only what has changed is replaced, so that the page does not jump, and the filter that someone types stays.
  const show = (page) => {
    const focused = document.activeElement && document.activeElement.id;
    for (const id of PARTS) {
      const old = document.getElementById(id), fresh = page.getElementById(id);
      if (fresh && old.outerHTML !== fresh.outerHTML) old.replaceWith(fresh);
    }
    document.title = page.title;
    const again = focused && document.getElementById(focused);
    if (again && again !== document.activeElement) again.focus({ preventScroll: true });
  };

  const refresh = async () => {
    if (isBusy()) return;
    try {
      const response = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(EVERY_MS) });
      if (!response.ok) throw new Error(response.status);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      if (isBusy()) return;
      show(page);
      say("Refreshes itself every 5 seconds.", false);
    } catch {
      say("The gateway does not respond. These figures are old.", true);
    }
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Continue" : "Pause";
    say(paused ? "Paused." : "Refreshes itself every 5 seconds.", false);
    refresh();
  });
  say("Refreshes itself every 5 seconds.", false);
  const loop = () => refresh().finally(() => setTimeout(loop, EVERY_MS));
  setTimeout(loop, EVERY_MS);
})();
