import js from "@eslint/js";
import globals from "globals";

export default [
  { ignores: ["**/node_modules/", "site/"] },
  js.configs.recommended,
  {
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: { eqeqeq: "error", "no-var": "error", "prefer-const": "error", "no-undef": "error", "no-unused-vars": ["error", { args: "after-used" }] },
  },
  { files: ["web/js/**", "docs/**"], languageOptions: { globals: globals.browser }, rules: { "no-shadow": "error" } },
  { files: ["tests/**"], languageOptions: { globals: { ...globals.node, ...globals.browser, app: "readonly", LiteGraph: "readonly" } } },
  { files: ["eslint.config.js"], languageOptions: { globals: globals.node } },
];
