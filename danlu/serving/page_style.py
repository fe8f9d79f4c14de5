"""How the page looks."""

FONT = ("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
"""Fonts of the reader's own system: none is fetched."""

HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect \
width='32' height='32' rx='8' fill='%230f766e'/%3E%3Cpath d='M8 10h16v9H15l-4 4v-4H8z' fill='white'/%3E%3C/svg%3E">
"""

CSS = """
<style>
.gradio-container { padding: 0 !important; max-width: none !important; }
.gradio-container > .main, .gradio-container main { padding: 0 !important; max-width: none !important; }
.gradio-container footer { display: none !important; }
#page {
    height: 100dvh; max-width: 860px; margin: 0 auto; padding: 12px 16px calc(12px + env(safe-area-inset-bottom));
    gap: 8px; flex-wrap: nowrap; position: relative; box-sizing: border-box;
}

#head { align-items: center; flex: none; flex-wrap: nowrap; gap: 8px; }
#head > * { flex: none; min-width: 0; width: auto; }
#name { flex: 1 1 0 !important; overflow: hidden; }
#name h1 { font-size: 18px; line-height: 24px; font-weight: 650; margin: 0; white-space: nowrap; overflow: hidden;
    text-overflow: ellipsis; }
#name p { font-size: 12px; line-height: 16px; margin: 0; color: var(--body-text-color-subdued); white-space: nowrap;
    overflow: hidden; text-overflow: ellipsis; }
#head button { min-width: 0; white-space: nowrap; }
#language { padding: 0; border: 0; background: none; }
#language .wrap { gap: 0; flex-wrap: nowrap; border: 1px solid var(--border-color-primary); border-radius: 8px;
    overflow: hidden; }
#language { min-width: 0 !important; }
#language label { border: 0; border-radius: 0; padding: 5px 9px; box-shadow: none; background: none; }
#language label.selected { background: var(--color-accent-soft); color: var(--body-text-color); }
#language label input { position: absolute; opacity: 0; }
#language label span { margin: 0; font-size: 13px; }
#language label:focus-within { outline: 2px solid var(--color-accent); outline-offset: -2px; }

#settings { display: none; position: absolute; z-index: 20; top: 62px; right: 16px;
    width: min(440px, calc(100% - 32px)); max-height: calc(100dvh - 150px); overflow-y: auto;
    border: 1px solid var(--border-color-primary);
    border-radius: 12px; box-shadow: 0 12px 32px rgb(0 0 0 / 18%); background: var(--background-fill-primary); }
#settings > *, #settings .form { flex: none; border: 0; box-shadow: none; }
#settings span[data-testid="block-info"] { background: none; padding: 0; color: var(--body-text-color);
    font-weight: 500; font-size: 13px; }
#settings .block { padding: 8px 14px; }
#settings .block .block { padding: 0; }
#settings textarea, #settings input[type="number"] { border: 1px solid var(--border-color-primary); box-shadow: none; }
body.settings-open #settings { display: flex; flex-wrap: nowrap; gap: 0; }

#chat { flex: 1 1 0 !important; min-height: 0; padding: 0; overflow: hidden; position: relative; }
#chat .log { position: absolute; inset: 0; overflow-y: auto; padding: 8px 2px; box-sizing: border-box;
    scrollbar-width: thin; }
#chat .row { display: flex; flex-direction: column; align-items: flex-start; margin-bottom: 6px; }
#chat .row.user { align-items: flex-end; }
#chat .bubble { max-width: min(88%, 720px); min-width: 0; padding: 10px 14px; border-radius: 16px; font-size: 16px;
    line-height: 1.6; border-bottom-left-radius: 4px; background: var(--background-fill-primary);
    border: 1px solid var(--border-color-primary); box-sizing: border-box; }
#chat .user .bubble { border-radius: 16px; border-bottom-right-radius: 4px; border-color: transparent;
    background: #0f766e; color: white; }
#chat .text { white-space: pre-wrap; overflow-wrap: anywhere; }
#chat .code { position: relative; margin: 8px 0; border-radius: 10px; background: #0f172a; color: #e2e8f0;
    padding: 30px 14px 12px; }
#chat .code pre { margin: 0; padding: 0; background: none; color: inherit; white-space: pre; overflow-x: auto;
    font: 14px/1.55 var(--font-mono); }
#chat .code-name { position: absolute; top: 7px; left: 14px; font-size: 12px; color: #94a3b8; }
#chat .code .copy { position: absolute; top: 3px; right: 8px; color: #94a3b8; }
#chat .copy { border: 0; background: none; padding: 2px 6px; font-size: 12px; line-height: 18px; cursor: pointer;
    color: var(--body-text-color-subdued); border-radius: 6px; }
#chat .row > .copy { opacity: 0; transition: opacity 0.15s; }
#chat .row:hover > .copy, #chat .row > .copy:focus-visible, #chat .row:last-child > .copy { opacity: 1; }
#chat .copy::after { content: "Copy"; }
#chat .copy.done::after { content: "Copied"; }
#chat:lang(zh) .copy::after { content: "复制"; }
#chat:lang(zh) .copy.done::after { content: "已复制"; }
#chat .bot:last-child .text:empty::after { content: "…"; color: var(--body-text-color-subdued); }
#page:has(#stop) #chat .bot:last-child .text:empty::after { animation: danlu-wait 1.2s ease-in-out infinite; }
#page:has(#stop) #chat .row:last-child > .copy { opacity: 0; }
@keyframes danlu-wait { 50% { opacity: 0.2; } }
@media (hover: none) { #chat .row > .copy { opacity: 1; } }

#welcome { position: absolute; top: 38%; left: 0; right: 0; text-align: center; pointer-events: none; }
#welcome h2 { font-size: 26px; font-weight: 600; margin: 0; color: var(--body-text-color); }
#page:has(#chat .row) #welcome { display: none; }

#foot { flex: none; align-items: center; gap: 8px; flex-wrap: wrap; }
#foot > * { flex: none; width: auto; min-width: 0; }
#foot:not(:has(button)):not(:has(#notice)) { display: none; }
#notice { flex: 1 1 200px !important; font-size: 13px; line-height: 18px; color: var(--body-text-color-subdued);
    padding: 0 4px; }
#again { display: none; }
#page:has(#chat .bot):not(:has(#stop)) #again { display: inline-flex; }

#entry { flex: none; flex-wrap: nowrap; align-items: flex-end; gap: 8px; padding: 6px;
    border: 1px solid var(--border-color-primary); border-radius: 16px; background: var(--background-fill-primary); }
#entry:focus-within { border-color: var(--color-accent); }
#stop { background: #b91c1c; color: white; border-color: transparent; }
#entry > button { flex: none; min-width: 84px; height: 40px; border-radius: 11px; }
#box { flex: 1 1 0; min-width: 0; border: 0; padding: 0; background: none; }
#box textarea { border: 0; box-shadow: none; background: none; font-size: 16px; line-height: 22px; padding: 9px 8px; }

@media (max-width: 560px) {
    #page { padding: 8px 10px calc(8px + env(safe-area-inset-bottom)); }
    #name p { display: none; }
    #name h1 { font-size: 16px; }
    #settings { right: 10px; width: calc(100% - 20px); top: 52px; }
    #entry > button { min-width: 64px; padding: 0 10px; }
}
</style>
"""
"""As a part of the head: Gradio would put its container before each selector."""
