// The widgets' few words in the language of the page; English where there is no other.

const ZH = {
  "Copy as text": "复制为文本",
  "Curve: height of the noise level against progress through the run": "曲线：噪声级的高度随运行进度的变化",
  "Add a point after the selected one (double click on the plot, or Enter)": "在选中的点之后加一个点（双击图形，或按 Enter）",
  "Remove the selected point (Delete)": "删除选中的点（Delete）",
  "A straight line": "直线",
  "reset": "重置",
  "progress": "进度",
  "point {} of {}": "第 {} 点，共 {} 点",
  "height {} at progress {}": "高度 {}，进度 {}",
  "σ from {} to {} in {} steps": "σ 从 {} 到 {}，共 {} 步",
  "σ on a logarithmic scale": "σ（对数刻度）",
  "σ, as in SIGMAS": "σ，与 SIGMAS 中相同",
  "λ = log(α/σ), half the log signal-to-noise ratio": "λ = log(α/σ)，对数信噪比的一半",
  "The timestep the network is told": "告诉网络的时间步",
  "Against the number of the step": "横轴为步数",
  "Against progress through the run": "横轴为运行进度",
  "step": "步",
  "step {}": "第 {} 步",
  "vertical axis": "纵轴",
  "horizontal axis": "横轴",
  "Noise levels": "噪声级",
  "Keep this curve to compare others with": "留住这条曲线，与其他曲线比较",
  "pin": "固定",
  "unpin": "取消固定",
  "pinned: {}": "已固定：{}",
  "This needs a noise schedule: connect noise_schedule.": "这需要噪声调度：请连接 noise_schedule。",
  "the server does not answer: {}": "服务器没有回应：{}",
  "Connect {}.": "请连接 {}。",
  "Values of the last run; “{}” is known only then.": "上次运行的值；“{}”只有运行时才知道。",
  "“{}” is known only after a run.": "“{}”运行之后才知道。",
  "With the noise schedule of the last run of “{}”.": "使用“{}”上次运行的噪声调度。",
  "The run is shown here after it was made.": "运行之后显示在这里。",
  "Paste A1111 settings": "粘贴 A1111 设置",
  "Paste the text under the picture: prompt, negative prompt, Steps: …": "请粘贴图片下方的文字：提示词、负面提示词、Steps: …",
  "Plan": "计划",
  "Report": "报告",
  "Picture of the report": "报告的图片",
  "Picture {}": "图片 {}",
  "What a run tells is shown here.": "运行的结果显示在这里。",
  "NFE {} · order {} · {} steps · on {}": "NFE {} · {} 阶 · {} 步 · 路径 {}",
  "The first {} of {} stages.": "前 {} 个阶段，共 {} 个。",
  "D is evaluated here": "此处求 D",
  "no evaluation": "此处不求值",
  "prediction x0": "预测 x0",
  "state x": "状态 x",
  "Play the run": "播放这次运行",
  "Curves of the run": "运行的曲线",
  "curve": "曲线",
  "step {} · σ {}": "第 {} 步 · σ {}",
};

let table = {};

export const speak = (locale) => { table = String(locale).startsWith("zh") ? ZH : {}; };

// the text in the page's language, its {} filled with values in their order
export function say(text, ...values) {
  let i = 0;
  return (table[text] ?? text).replace(/\{\}/g, () => values[i++]);
}
