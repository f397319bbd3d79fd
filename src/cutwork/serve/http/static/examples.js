// Prompts to click where nothing has been asked yet: the model's own, else such as any model can answer.
const GENERAL = [
  "Tom has 4 boxes with 6 apples each and gives 5 apples away. How many are left?",
  "Explain in two sentences why leaves are green.",
  "Write a short poem about the sea.",
];

export function offer(container, card, choose) {
  container.replaceChildren(...(card?.examples?.length ? card.examples : GENERAL).map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "example";
    button.textContent = text;
    button.addEventListener("click", () => choose(text));
    return button;
  }));
}
