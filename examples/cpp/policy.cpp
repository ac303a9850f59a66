// Asks a policy for its action, or its next k actions: ./policy policy.onnx 0 1.0 0.0 0.5
//
// policy.onnx comes from `jaxrl-prefs export --onnx`, 0 is the number of the draw, and the
// observation follows. Build it with ONNX Runtime's C++ library, whose archive is unpacked to $ORT:
//   g++ -std=c++17 policy.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o policy
#include <onnxruntime_cxx_api.h>

#include <cmath>
#include <iostream>
#include <string>
#include <vector>

int main(int count, char** words) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "policy");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, words[1], options);
  uint32_t draw = std::stoul(words[2]);
  std::vector<float> observation;
  for (int i = 3; i < count; ++i) observation.push_back(std::stof(words[i]));
  for (float x : observation) if (!std::isfinite(x)) return std::cerr << "not finite\n", 2;

  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  int64_t shape[] = {1, static_cast<int64_t>(observation.size())};
  Ort::Value inputs[] = {
      Ort::Value::CreateTensor<float>(memory, observation.data(), observation.size(), shape, 2),
      Ort::Value::CreateTensor<uint32_t>(memory, &draw, 1, nullptr, 0)};
  const char* in[] = {"observation", "draw"};
  const char* out[] = {"action"};
  auto actions = session.Run(Ort::RunOptions{}, in, inputs, 2, out, 1);
  const float* action = actions[0].GetTensorData<float>();
  auto sizes = actions[0].GetTensorTypeAndShapeInfo().GetShape();  // [1, A], or [1, k, A]
  int64_t rows = sizes.size() > 2 ? sizes[1] : 1, width = sizes.back();
  for (int64_t i = 0; i < rows * width; ++i)
    std::cout << action[i] << ((i + 1) % width ? " " : "\n");  // an action a line
}
